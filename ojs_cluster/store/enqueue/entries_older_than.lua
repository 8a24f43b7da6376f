-- Claims of aliases older than `age`, whose job the janitor looks for; or jobs whose references it
-- checks.
-- Memory: no-writes.
-- KEYS: 1 the shard's claims, or refs.  ARGV: 1 age ms, 2 limit.
-- Returns: ids
--@include now
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])
