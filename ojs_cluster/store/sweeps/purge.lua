-- Transition: terminal -> deleted, for up to `limit` jobs of one shard whose retention is over; for fewer
-- large ones.
-- Post: no key of such a job remains in the shard. A job whose id names another shard is only returned,
--       and is no dead letter any more. The caller removes its alias there and then runs delete_jobs.lua,
--       so a crash between the two is repeated and leaves no alias behind. A malformed job is checked
--       again later.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 finished, 2 dead, 3 expiring.
-- ARGV: 1 limit, 2 this shard's index, 3 number of shards.
-- Returns: {jobs removed, ids that name another shard, now, ms of the next removal or -1,
--           ids of malformed jobs}
--@include keys now preflight remove_many lowest_remaining read_job change_counters delete_job
local limit, this_shard, shards = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local jobs, gone, foreign, malformed, bytes = {}, {}, {}, {}, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', FINISHED, '-inf', now, 'LIMIT', 0, limit)) do
    if bytes >= MAX_FREED_BYTES then break end
    local key = job_key(id)
    local job, reply = load_index_fields(key)
    if is_malformed(reply) or job and not is_terminal(job[F.state]) then
        malformed[#malformed + 1] = id
    else
        jobs[id] = job or false
        local here = tonumber(string.sub(id, 16, 18), 16) % shards == this_shard
        table.insert(here and gone or foreign, id)
        if job then
            preflight_delete(job)
            bytes = bytes + (here and freed_bytes(key, job) or 0)
        end
    end
end
run_preflight()

for _, id in ipairs(foreign) do
    local job = jobs[id]
    -- A manual retry would bring back a job whose alias is about to be removed.
    if job and job[F.dead] then
        remove_member(DEAD, id)
        remove_member(queue_dead_key(job[F.queue]), id)
        redis.call('HDEL', job_key(id), F.dead)
    end
end
for _, id in ipairs(gone) do
    if jobs[id] then delete_job(id, job_key(id), jobs[id]) else remove_member(FINISHED, id) end
end
for _, id in ipairs(malformed) do recheck_later(FINISHED, id) end
local following = lowest_remaining(FINISHED)
flush_removals()
flush_counters()
return {#gone, foreign, now, following or -1, malformed}
