-- Reads the counts of one queue in this shard; changes nothing. `available` (blocked jobs included) and `dead`
-- are the sizes of sets. The numbers of jobs in the other states are counters in the queue's hash, which each
-- transition changes.
-- Memory: no-writes.
-- KEYS: 1 queue_counters, 2 queue_available, 3 queue_dead, 4 queue_minutes, 5 queue_blocked.
-- Returns: {now, available, dead, fields of queue_counters, fields of queue_minutes}
--@include now
local counters_key, available_key, dead_key = KEYS[1], KEYS[2], KEYS[3]
local minutes_key, blocked_key = KEYS[4], KEYS[5]
local available = redis.call('ZCARD', available_key) + redis.call('ZCARD', blocked_key)
local dead = redis.call('ZCARD', dead_key)
return {now, available, dead, redis.call('HGETALL', counters_key), redis.call('HGETALL', minutes_key)}
