-- An operator ends what jobs declared for their queue (max_per_second), in one of its partitions.
-- Post: jobs that are there do not declare it again, later ones may; waiters fetch again.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 c:.
-- ARGV: 1 queue.
-- Returns: 1 when the queue is known, else 0
--@include keys now
if redis.call('HEXISTS', KEYS[1], 'created') == 0 then return 0 end
redis.call('HDEL', KEYS[1], 'max_per_second', 'declared_starts', 'declared_at', 'declared_by')
redis.call('HSET', KEYS[1], 'undeclared_at', now)
redis.call('SPUBLISH', WAKE_CHANNEL, ARGV[1])
return 1
