-- Reads the state of a rate limit key; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 rate_limit, 2 token_holders, 3 token_requesters.
-- ARGV: 1 maximum number of granted tokens that are returned.
-- Returns: {now, number of granted tokens, number of requested tokens, fields of the rate_limit hash, granted tokens}
--@include now
local hash_key, holders_key, requesters_key = KEYS[1], KEYS[2], KEYS[3]
local granted, requested = redis.call('ZCARD', holders_key), redis.call('ZCARD', requesters_key)
local most = tonumber(ARGV[1])
local tokens = most > 0 and redis.call('ZRANGE', holders_key, 0, most - 1, 'REV') or {}
return {now, granted, requested, redis.call('HGETALL', hash_key), tokens}
