-- Transition: available -> removed, for up to `limit` jobs of one queue, lowest score first. The jobs of one
--             call have about MAX_FREED_BYTES at most.
-- Post: each removed job is gone from all its sets. The script does not remove malformed jobs, nor jobs whose
--       removal needs an effect or another shard: their id maps to another shard or was fixed in advance, or
--       they have a workflow, a unique lock or a rate limit key. It returns the ids of these jobs.
--       When no job is left, the turns of the queue's tenants are gone, as after fetches of an empty queue.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 queue_available, 2 queue_counters, 3 finished, 4 dead, 5 expiring, 6 queue_blocked, 7 tenant_turns.
-- ARGV: 1 limit, 2 this shard's index, 3 number of shards.
-- Returns: {number of jobs removed, ids of the jobs that were not removed, number of jobs left in the queue}
--@include keys now preflight remove_many read_job change_counters delete_job
local available_key, blocked_key = KEYS[1], KEYS[6]
local limit, shard, shards = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local not_removed, removed, jobs, bytes = {}, {}, {}, 0
local ids = redis.call('ZRANGE', available_key, 0, limit - 1)
if #ids < limit then
    local blocked = redis.call('ZRANGE', blocked_key, 0, limit - 1 - #ids)
    for _, id in ipairs(blocked) do ids[#ids + 1] = id end
end
for _, id in ipairs(ids) do
    if bytes >= MAX_FREED_BYTES then break end
    local key = job_key(id)
    -- The owner shard is in these hexadecimal digits of the id (see Keyspace.shard_of_id in keys.py).
    local is_owner_shard = tonumber(string.sub(id, 16, 18), 16) % shards == shard
    local job, reply = load_index_fields(key)
    local workflow, unique, limit_, fixed = unpack(redis.call('HMGET', key, F.workflow, F.unique, F.limit,
        F.fixed_id))
    local needs_effects = workflow or unique or limit_ or fixed
    if is_owner_shard and not needs_effects and not is_malformed(reply) then
        removed[#removed + 1], jobs[id] = id, job or false
        if job then
            preflight_delete(job)
            bytes = bytes + freed_bytes(key, job)
        end
    else
        not_removed[#not_removed + 1] = id
    end
end
run_preflight()

for _, id in ipairs(removed) do
    if jobs[id] then delete_job(id, job_key(id), jobs[id]) else
        remove_member(available_key, id)
        remove_member(blocked_key, id)
    end
end
local left = remaining_members(available_key) + redis.call('ZCARD', blocked_key)
flush_removals()
flush_counters()
if left == 0 then redis.call('UNLINK', KEYS[7]) end
return {#removed, not_removed, left}
