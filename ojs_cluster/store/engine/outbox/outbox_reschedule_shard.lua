-- Schedules the next attempt to reach an unreachable shard that outbox entries wait for.
-- Post: the shard is tried again after the pause, but not before the first of its waiting entries is due. If no
--       entry waits for the shard, it is not tried again.
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 outbox_blocked_shards, 2 outbox_waiting.
-- ARGV: 1 index of the shard that was tried, 2 pause (ms).
-- Returns: time of the next attempt (ms) or -1
--@include now
local BLOCKED_SHARDS, WAITING = KEYS[1], KEYS[2]
local shard, pause_ms = ARGV[1], ARGV[2]
local first = redis.call('ZRANGE', WAITING, 0, 0, 'WITHSCORES')[2]
if not first then
    redis.call('ZREM', BLOCKED_SHARDS, shard)
    return -1
end
local at = math.max(now + pause_ms, tonumber(first))
redis.call('ZADD', BLOCKED_SHARDS, at, shard)
return at
