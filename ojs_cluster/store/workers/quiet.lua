-- Marks a worker as not fetching in this shard, where fetch reads it inside its pop; or unmarks it.
-- Memory: allow-oom; adds 300 bytes per quiet worker.
-- KEYS: 1 the shard's quiet.  ARGV: 1 worker id, 2 ms the mark lasts (0 takes it back).
-- Returns: now
--@include now
-- Taken back by letting it lapse, so that one command removes: see look.lua.
if ARGV[2] == '0' then redis.call('ZADD', KEYS[1], 'XX', 0, ARGV[1])
else redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return now
