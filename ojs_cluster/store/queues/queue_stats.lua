-- A queue's numbers at one moment; changes nothing. `available` and `dead` are the sizes of their
-- sets, those that wait for tokens included, the other states are counters kept by the transitions.
-- Memory: no-writes.
-- KEYS: 1 c:, 2 q:, 3 d:, 4 m:, 5 h:
-- Returns: {now, available, dead, queue hash, minutes hash}
--@include now
return {now, redis.call('ZCARD', KEYS[2]) + redis.call('ZCARD', KEYS[5]), redis.call('ZCARD', KEYS[3]),
    redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[4])}
