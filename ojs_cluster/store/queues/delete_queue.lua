-- Transition of a queue: draining -> deleted, in one of its partitions.
-- Pre:  no job of the queue waits or is active here.
-- Post: the queue does not exist here, and its settings are gone. The counters of its finished jobs stay until
--       retention has removed these jobs. The next job creates the queue again.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 queue_counters, 2 queue_available, 3 queue_blocked, 4 tenant_turns.
-- Returns: 1 when the queue is deleted here, 0 when it has a job
--@include keys
local counters_key = KEYS[1]
if redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then return 0 end
for _, jobs in ipairs(redis.call('HMGET', counters_key, 'scheduled', 'pending', 'active', 'retryable')) do
    if (tonumber(jobs) or 0) > 0 then return 0 end
end
redis.call('HDEL', counters_key, 'created', 'kept', 'open', 'paused', 'draining', 'deleting', 'rejected_at', 'bound', 'overflow',
    'on_exhaustion', 'limits', 'limited_at', 'queue_limits', 'starts', 'next_start', 'max_per_second',
    'declared_starts', 'declared_at', 'declared_by', 'undeclared_at', 'fair', 'fair_from')
redis.call('DEL', KEYS[4])
return 1
