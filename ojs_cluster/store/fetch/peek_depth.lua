-- What a worker could get from one partition of a queue just now; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 q:, 2 c:, 3 the shard's due, 4 h:.
-- Returns: jobs available, at least 1 when a job of the shard is due, or waits for a token: only a
--          fetch asks for one; 0 while the queue is paused
--@include now
if redis.call('HEXISTS', KEYS[2], 'paused') == 1 then return 0 end
local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
local due = first[2] and tonumber(first[2]) <= now and 1 or 0
return math.max(redis.call('ZCARD', KEYS[1]), due, redis.call('EXISTS', KEYS[4]))
