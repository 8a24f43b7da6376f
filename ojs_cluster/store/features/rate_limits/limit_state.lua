-- Reads the state of a rate limit key; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 rate_limit, 2 token_holders, 3 token_requesters.
-- Returns: {now, number of granted tokens, number of requested tokens, fields of the rate_limit hash}
--@include now
local hash_key, holders_key, requesters_key = KEYS[1], KEYS[2], KEYS[3]
local granted, requested = redis.call('ZCARD', holders_key), redis.call('ZCARD', requesters_key)
return {now, granted, requested, redis.call('HGETALL', hash_key)}
