-- Transition: terminal -> deleted, for up to `limit` jobs of one shard whose retention is over. The jobs of one
--             call have about MAX_FREED_BYTES at most.
-- Post: no key of such a job remains in the shard. A job whose id maps to another shard is not deleted, but is
--       no dead letter any more. Its id is returned. The caller removes the alias in the other shard and then
--       runs delete_jobs.lua. If the caller crashes between the two, the next purge returns the id again. A
--       malformed job is checked again later.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 finished, 2 dead, 3 expiring.
-- ARGV: 1 limit, 2 this shard's index, 3 number of shards.
-- Returns: {number of jobs removed, ids that map to another shard, now, ms of the next removal or -1,
--           ids of malformed jobs}
--@include keys now preflight remove_many lowest_remaining read_job change_counters delete_job
local limit, this_shard, shards = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local jobs, own_ids, foreign_ids, malformed, bytes = {}, {}, {}, {}, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', FINISHED, '-inf', now, 'LIMIT', 0, limit)) do
    if bytes >= MAX_FREED_BYTES then break end
    local key = job_key(id)
    local job, reply = load_index_fields(key)
    if is_malformed(reply) or job and not is_terminal(job[F.state]) then
        malformed[#malformed + 1] = id
    else
        jobs[id] = job or false
        -- The owner shard is in these hexadecimal digits of the id (see Keyspace.shard_of_id in keys.py).
        local is_own = tonumber(string.sub(id, 16, 18), 16) % shards == this_shard
        table.insert(is_own and own_ids or foreign_ids, id)
        if job then
            preflight_delete(job)
            bytes = bytes + (is_own and freed_bytes(key, job) or 0)
        end
    end
end
run_preflight()

for _, id in ipairs(foreign_ids) do
    local job = jobs[id]
    -- As a dead letter, the job could be retried by an operator while its alias is removed.
    if job and job[F.dead] then
        remove_member(DEAD, id)
        remove_member(queue_dead_key(job[F.queue]), id)
        redis.call('HDEL', job_key(id), F.dead)
    end
end
for _, id in ipairs(own_ids) do
    if jobs[id] then delete_job(id, job_key(id), jobs[id]) else remove_member(FINISHED, id) end
end
for _, id in ipairs(malformed) do recheck_later(FINISHED, id) end
local next_removal = lowest_remaining(FINISHED)
flush_removals()
flush_counters()
return {#own_ids, foreign_ids, now, next_removal or -1, malformed}
