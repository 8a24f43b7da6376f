-- Transition of a queue: active <-> paused. Jobs are not changed.
-- Post: the pause flag that the fetch script reads is set or removed; a resume wakes waiting workers. The name
--       of a new queue is sent to the registry of queue names.
-- Memory: allow-oom; adds 600 bytes.
-- KEYS: 1 queue_counters, 2 queue_available, 3 events.
-- ARGV: 1 events kept, 2 queue, 3 action: 'pause' | 'resume'.
-- Returns: {now, effects}
--@include keys now preflight read_job append_event set_deadline append_effect
local counters_key, available_key, name, action = KEYS[1], KEYS[2], ARGV[2], ARGV[3]
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', counters_key, 'created', now) == 1 then append_effect('queue', name) end
local queue = {[F.queue] = name, [F.type] = ''}
if action == 'pause' then
    if redis.call('HSETNX', counters_key, 'paused', now) == 1 then emit('queue.paused', '', queue) end
elseif redis.call('HDEL', counters_key, 'paused') == 1 then
    emit('queue.resumed', '', queue)
    if redis.call('ZCARD', available_key) > 0 then redis.call('SPUBLISH', WAKE_CHANNEL, name) end
end
return {now, effects}
