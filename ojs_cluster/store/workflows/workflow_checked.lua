-- A running workflow's jobs were read: when they are read again. The older it is the more seldom, so a
-- workflow that waits for days costs little.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 wf:, 2 the shard's wfrun.
-- ARGV: 1 id, 2 '1' to look again soon.
-- Returns: ms of the next look, or -1 when it does not run any more
--@include now stalled_after
local state, created = unpack(redis.call('HMGET', KEYS[1], 'state', 'created'))
if state ~= 'running' then
    redis.call('ZREM', KEYS[2], ARGV[1])
    return -1
end
local pause = math.min(math.max(CHECK_MS, now - (tonumber(created) or 0)), LONGEST_CHECK_MS)
if ARGV[2] == '1' then pause = CHECK_MS end
redis.call('ZADD', KEYS[2], now + pause, ARGV[1])
return now + pause
