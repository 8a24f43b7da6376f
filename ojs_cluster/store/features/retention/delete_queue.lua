-- Transition of a queue: draining -> deleted, in one of its partitions.
-- Pre:  no job of the queue waits or is active here, and the queue drains for this deletion.
-- Post: the queue does not exist here, and its settings are gone. The counters of its finished jobs stay until
--       retention has removed these jobs. The next job creates the queue again. Partition 0 has the event.
-- Memory: allow-oom; adds 3 KiB.
-- KEYS: 1 queue_counters, 2 queue_available, 3 queue_blocked, 4 tenant_turns, 5 events.
-- ARGV: 1 events kept, 2 queue, 3 token of the deletion in partition 0; '' in another partition, which has no token;
--       '*' to remove what was copied to it since it was deleted. 4 the defaults of the queue, which the caller
--       removes next: the script only stores them, for the end of a deletion that fails. Absent to delete the queue.
-- Returns: 1 when the queue is deleted here, now or before; 0 when it has a job, or when it was resumed, drained or
--          created meanwhile
--@include keys now fields append_event set_deadline
begin_events(ARGV[1])
local counters_key, token, defaults = KEYS[1], ARGV[3], ARGV[4]
local created, draining, deletion = unpack(redis.call('HMGET', counters_key, 'created', 'draining', 'deleting'))
if created and token ~= '*' then
    if token == '' and not draining then return 0 end
    if token ~= '' and deletion ~= token and deletion ~= token .. '*' then return 0 end
end
if redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then return 0 end
for _, jobs in ipairs(redis.call('HMGET', counters_key, 'scheduled', 'pending', 'active', 'retryable')) do
    if (tonumber(jobs) or 0) > 0 then return 0 end
end
if defaults then
    if created then redis.call('HSET', counters_key, 'removed_defaults', token .. '|' .. defaults) end
    return 1
end
redis.call('HDEL', counters_key, 'created', 'kept', 'open', 'paused', 'draining', 'deleting', 'rejected_at', 'bound',
    'overflow', 'on_exhaustion', 'limits', 'limited_at', 'queue_limits', 'starts', 'next_start', 'max_per_second',
    'declared_starts', 'declared_at', 'declared_by', 'undeclared_at', 'fair', 'fair_from', 'removed_defaults')
redis.call('DEL', KEYS[4])
if created and token ~= '' and token ~= '*' then emit('queue.deleted', '', {[F.queue] = ARGV[2], [F.type] = ''}) end
return 1
