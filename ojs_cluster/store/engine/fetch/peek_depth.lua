-- Reads how many jobs a worker could fetch now from one partition of a queue; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 queue_available, 2 queue_counters, 3 due, 4 queue_blocked.
-- Returns: number of available jobs, but at least 1 when a job of the shard is due or when the queue has a
--          blocked job; 0 while the queue is paused
--@include now
local available, counters, due, blocked = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('HEXISTS', counters, 'paused') == 1 then return 0 end
local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
local is_due = first[2] and tonumber(first[2]) <= now and 1 or 0
return math.max(redis.call('ZCARD', available), is_due, redis.call('EXISTS', blocked))
