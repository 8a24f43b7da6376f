-- Transition of a queue: active <-> paused, active <-> draining. Jobs are not changed.
-- Post: the flags are set or removed: fetch scripts read `paused`, enqueue scripts `draining`. The end of a pause
--       wakes waiting workers. The name of a new queue is sent to the registry of queue names.
-- Memory: allow-oom; adds 600 bytes.
-- KEYS: 1 queue_counters, 2 queue_available, 3 events.
-- ARGV: 1 events kept, 2 queue, 3 'set', 'remove' or 'keep' for the flag `paused`, 4 the same for `draining`,
--       5 token of a deletion, '' for an operator. The field `deleting` has the token of the last deletion until an
--       operator resumes or drains the queue. A '*' behind it says that an operator had drained the queue before:
--       then the end of the deletion removes the token alone. A deletion whose token is not there ends nothing.
--       The field `removed_defaults` has the defaults that the deletion has removed. The caller has restored them.
-- Returns: {now, effects, whether the queue is paused now (0 or 1), whether it is draining now}
--@include keys now preflight read_job append_event set_deadline append_effect wake_queue
local counters_key, available_key, name = KEYS[1], KEYS[2], ARGV[2]
local paused, draining, token = ARGV[3], ARGV[4], ARGV[5] or ''
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
local was_paused, drained, deletion = unpack(redis.call('HMGET', counters_key, 'paused', 'draining', 'deleting'))
if token ~= '' and draining == 'remove' and deletion ~= token and deletion ~= token .. '*' then
    return {now, effects, was_paused and 1 or 0, drained and 1 or 0} -- the queue may have been deleted
end
if redis.call('HSETNX', counters_key, 'created', now) == 1 then append_effect('queue', name) end
local queue = {[F.queue] = name, [F.type] = ''}
if draining == 'set' then
    if not drained then redis.call('HSET', counters_key, 'draining', now) end
    if token == '' or not deletion then redis.call('HDEL', counters_key, 'deleting', 'removed_defaults') end
    if token ~= '' then
        local by_operator = drained and (not deletion or string.sub(deletion, -1) == '*')
        redis.call('HSET', counters_key, 'deleting', token .. (by_operator and '*' or ''))
    end
    redis.call('HDEL', counters_key, 'open') -- for enqueue_one.lua, which does not check the flag
elseif draining == 'remove' then
    redis.call('HDEL', counters_key, 'deleting', 'removed_defaults')
    if token == '' or deletion == token then redis.call('HDEL', counters_key, 'draining') end
end
if paused == 'set' then
    if redis.call('HSETNX', counters_key, 'paused', now) == 1 then emit('queue.paused', '', queue) end
elseif paused == 'remove' and redis.call('HDEL', counters_key, 'paused') == 1 then
    emit('queue.resumed', '', queue)
    if redis.call('ZCARD', available_key) > 0 then wake_queue(name) end
end
paused, draining = unpack(redis.call('HMGET', counters_key, 'paused', 'draining'))
return {now, effects, paused and 1 or 0, draining and 1 or 0}
