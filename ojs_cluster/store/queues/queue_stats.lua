-- Reads a queue's numbers in one step; changes nothing. `available` and `dead` are the sizes of their sets,
-- blocked jobs included. The other states are counters that the transitions keep.
-- Memory: no-writes.
-- KEYS: 1 queue_counters, 2 queue_available, 3 queue_dead, 4 queue_minutes, 5 queue_blocked.
-- Returns: {now, available, dead, queue hash, minutes hash}
--@include now
local counters_key, available_key, dead_key = KEYS[1], KEYS[2], KEYS[3]
local minutes_key, blocked_key = KEYS[4], KEYS[5]
local available = redis.call('ZCARD', available_key) + redis.call('ZCARD', blocked_key)
local dead = redis.call('ZCARD', dead_key)
return {now, available, dead, redis.call('HGETALL', counters_key), redis.call('HGETALL', minutes_key)}
