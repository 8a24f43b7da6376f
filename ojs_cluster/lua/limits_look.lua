-- Keys of a shard that the scheduler must look at. Changes nothing.
-- KEYS: 1 the shard's limlook.  ARGV: 1 limit.
-- Returns: {now, ms of the next look or -1, keys}
--@include now
local keys = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local first = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {now, first[2] and tonumber(first[2]) or -1, keys}
