-- Transition of a queue: active <-> paused. Jobs are not touched.
-- Post: the mark that fetch reads inside its pop is set or gone; waiters learn of a resume. The name
--       of a queue that is seen for the first time is owed to the registry.
-- Memory: allow-oom; adds 600 bytes.
-- KEYS: 1 c:, 2 q:, 3 the shard's ev.
-- ARGV: 1 events kept, 2 queue, 3 'pause' | 'resume'.
-- Returns: {now, effects}
--@include keys now preflight read_job append_event set_deadline append_effect
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', KEYS[1], 'created', now) == 1 then append_effect('queue', ARGV[2]) end
local queue = {[F.queue] = ARGV[2], [F.type] = ''}
if ARGV[3] == 'pause' then
    if redis.call('HSETNX', KEYS[1], 'paused', now) == 1 then emit('queue.paused', '', queue) end
elseif redis.call('HDEL', KEYS[1], 'paused') == 1 then
    emit('queue.resumed', '', queue)
    if redis.call('ZCARD', KEYS[2]) > 0 then redis.call('SPUBLISH', WAKE_CHANNEL, ARGV[2]) end
end
return {now, effects}
