-- Lists unique locks of one shard that the janitor has to check.
-- Memory: no-writes.
-- KEYS: 1 locks.  ARGV: 1 maximum number of locks.
-- Returns: {now, fingerprints}
--@include now
local locks, limit = KEYS[1], ARGV[1]
return {now, redis.call('ZRANGEBYSCORE', locks, '-inf', now, 'LIMIT', 0, limit)}
