-- Transition of a queue: (nothing) -> active, requested by an operator.
-- Pre:  no job and no operator has created the queue.
-- Post: the queue exists, also without jobs, until an operator deletes it. Its name is sent to the registry of
--       queue names. A field of a queue that was deleted is kept only if it counts jobs.
-- Memory: allow-oom; adds 600 bytes.
-- KEYS: 1 queue_counters, 2 events.
-- ARGV: 1 events kept, 2 queue, 3 '1' to keep a queue that exists, too.
-- Returns: {whether the queue is new (0 or 1), now, effects}
--@include keys now preflight fields append_event set_deadline append_effect
begin_events(ARGV[1])
local counters_key, queue, accept_existing = KEYS[1], ARGV[2], ARGV[3] == '1'
local created = redis.call('HGET', counters_key, 'created')
if created and not accept_existing then return {0, now, {}} end
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
redis.call('HSET', counters_key, 'created', created or now, 'kept', 1)
if not created then
    append_effect('queue', queue)
    emit('queue.created', '', {[F.queue] = queue, [F.type] = ''})
end
return {created and 0 or 1, now, effects}
