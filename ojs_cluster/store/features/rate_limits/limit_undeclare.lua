-- Removes the max_per_second that jobs declared for their queue, in one partition of the queue.
-- Post: only jobs created after this can declare max_per_second again; waiting workers fetch again.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 queue_counters.
-- ARGV: 1 queue.
-- Returns: 1 when the queue exists, else 0
--@include keys now wake_queue
local counters_key, queue = KEYS[1], ARGV[1]
if redis.call('HEXISTS', counters_key, 'created') == 0 then return 0 end
redis.call('HDEL', counters_key, 'max_per_second', 'declared_starts', 'declared_at', 'declared_by')
redis.call('HSET', counters_key, 'undeclared_at', now)
wake_queue(queue)
return 1
