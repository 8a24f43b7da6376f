-- A rate limit key as it is; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 l:, 2 lh:, 3 la:.
-- Returns: {now, tokens given out, tokens asked for, fields}
--@include now
return {now, redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3]), redis.call('HGETALL', KEYS[1])}
