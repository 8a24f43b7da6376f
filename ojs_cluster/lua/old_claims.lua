-- Claims of aliases older than `age`: the janitor looks whether their job exists.
-- Memory: no-writes.
-- KEYS: 1 the shard's claims.  ARGV: 1 age ms, 2 limit.
-- Returns: ids
--@include now
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])
