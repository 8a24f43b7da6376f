-- Adds a job to the index of the search: to the sorted set of a value that the job has (see
-- store/engine/jobs/index_values.py). `at`: when the job was created (ms). The set ends `keep_ms` after the job's due
-- time, or after now. Its end is set an hour later, so that most jobs do not move it.
local INDEXED_PER_VALUE = 10000 -- jobs of a value in this shard
local INDEXED_AHEAD_MS = 31622400000 -- 366 days; no job keeps the set for longer before it is due
local function index_value(key, id, at, due, keep_ms)
    redis.call('ZADD', key, at, id)
    local surplus = redis.call('ZCARD', key) - INDEXED_PER_VALUE
    if surplus > 0 then redis.call('ZREMRANGEBYRANK', key, 0, surplus - 1) end
    local ends = math.max(now, math.min(due or 0, now + INDEXED_AHEAD_MS)) + keep_ms
    -- Not PEXPIRETIME, which users of Redis with the rights of earlier versions may not call.
    if now + redis.call('PTTL', key) < ends then
        redis.call('PEXPIREAT', key, string.format('%.0f', ends + 3600000))
    end
end
