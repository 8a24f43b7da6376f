-- A shard that outbox entries wait for was tried: it is tried again after a pause, when the first of
-- them is due, or not at all when none waits any more.
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 the shard's away, 2 the set of the entries that wait.
-- ARGV: 1 index of the shard that was tried, 2 ms of the pause.
-- Returns: ms of the next try or -1
--@include now
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
if not first then
    redis.call('ZREM', KEYS[1], ARGV[1])
    return -1
end
local at = math.max(now + ARGV[2], tonumber(first))
redis.call('ZADD', KEYS[1], at, ARGV[1])
return at
