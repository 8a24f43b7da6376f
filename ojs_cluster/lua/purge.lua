-- Transition: terminal -> gone, for up to `limit` jobs of one shard whose retention is over.
-- Post: no key of such a job remains in the shard. A job whose id names another shard is only
--       listed, and is no dead letter any more: its alias there goes first, then forget.lua takes
--       the job, so a crash between the two repeats and never leaves an alias behind.
-- KEYS: 1..3 the shard's fin, dead, exp.
-- ARGV: 1 limit, 2 this shard's index, 3 number of shards.
-- Returns: {jobs removed, ids that name another shard, now, ms of the next removal or -1}
--@include keys now job forget
local removed, foreign = 0, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', FINISHED, '-inf', now, 'LIMIT', 0, ARGV[1])) do
    if tonumber(string.sub(id, 16, 18), 16) % tonumber(ARGV[3]) ~= tonumber(ARGV[2]) then
        foreign[#foreign + 1] = id
        -- No retry by hand from here on: it would bring back a job whose alias is about to go.
        local queue = redis.call('HGET', job_key(id), F.queue)
        if queue and redis.call('HDEL', job_key(id), F.dead) == 1 then
            redis.call('ZREM', DEAD, id)
            redis.call('ZREM', dead_key(queue), id)
        end
    else
        local key = job_key(id)
        local job = load_job(key)
        if job then forget(id, key, job) else redis.call('ZREM', FINISHED, id) end
        removed = removed + 1
    end
end
local first = redis.call('ZRANGE', FINISHED, 0, 0, 'WITHSCORES')
return {removed, foreign, now, first[2] and tonumber(first[2]) or -1}
