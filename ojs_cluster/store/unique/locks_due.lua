-- Unique locks of one shard that the janitor has not looked at for long.
-- Memory: no-writes.
-- KEYS: 1 the shard's locks.  ARGV: 1 limit.
-- Returns: {now, fingerprints}
--@include now
return {now, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])}
