-- Transition: available -> gone, for up to `limit` jobs of one queue, lowest place first.
-- Post: as purge.lua; jobs that others must hear of (their id names another shard, or they are
--       part of a workflow or hold a unique lock) are only listed.
-- KEYS: 1 q:, 2 c:, 3..5 the shard's fin, dead, exp.
-- ARGV: 1 limit, 2 this shard's index, 3 number of shards.
-- Returns: {jobs removed, ids only listed, jobs still there}
--@include keys job forget
local removed, foreign = 0, {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)) do
    local key = job_key(id)
    local job = load_job(key)
    if tonumber(string.sub(id, 16, 18), 16) % tonumber(ARGV[3]) ~= tonumber(ARGV[2])
        or job and (job[F.workflow] or job[F.unique]) then
        foreign[#foreign + 1] = id
    else
        if job then forget(id, key, job) else redis.call('ZREM', KEYS[1], id) end
        removed = removed + 1
    end
end
return {removed, foreign, redis.call('ZCARD', KEYS[1])}
