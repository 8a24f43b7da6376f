-- Transition of a queue: active <-> paused, active <-> draining. Jobs are not changed.
-- Post: the flags are set or removed: fetch scripts read `paused`, enqueue scripts `draining`. The end of a pause
--       wakes waiting workers. The name of a new queue is sent to the registry of queue names.
-- Memory: allow-oom; adds 600 bytes.
-- KEYS: 1 queue_counters, 2 queue_available, 3 events.
-- ARGV: 1 events kept, 2 queue, 3 'set', 'remove' or 'keep' for the flag `paused`, 4 the same for `draining`,
--       5 token of a deletion, '' for an operator. The field `deleting` has the token of the last deletion until an
--       operator resumes or drains the queue. A '*' behind it says that an operator had drained the queue before:
--       then the end of the deletion removes the token alone. A deletion whose token is not there ends nothing.
--       The field `removed_defaults` has the token of a deletion, '|' and the defaults that this deletion removes. If
--       it ends otherwise, the field has no token, until the caller has restored the defaults.
--       6 a value of this field whose defaults are restored: the script then only removes it; '' for none.
--       7 time (ms) from which on the drain of a deletion does not begin any more; none without a limit.
-- Returns: {now, effects, whether the queue is paused now (0 or 1), whether it is draining now, '|' and
--          defaults that the caller restores, or ''} | {'late'}
--@include keys now preflight read_job append_event set_deadline append_effect wake_queue
begin_events(ARGV[1])
local counters_key, available_key, name = KEYS[1], KEYS[2], ARGV[2]
local paused, draining, token = ARGV[3], ARGV[4], ARGV[5] or ''
local was_paused, drained, deletion, removed, created =
    unpack(redis.call('HMGET', counters_key, 'paused', 'draining', 'deleting', 'removed_defaults', 'created'))
if ARGV[6] and ARGV[6] ~= '' then
    if removed == ARGV[6] then redis.call('HDEL', counters_key, 'removed_defaults') end
    return {now, effects, was_paused and 1 or 0, drained and 1 or 0, ''}
end
-- A repetition after a lost reply finds the drain that it has begun.
if ARGV[7] and now >= tonumber(ARGV[7]) and deletion ~= token and deletion ~= token .. '*' then return {'late'} end
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
local owner, record = string.match(removed or '', '^([^|]*)|(.*)$')
local last = string.gsub(deletion or token, '%*$', '')
-- An earlier version may have ended this deletion, or deleted the queue.
if not created or owner ~= '' and owner ~= last then record = nil end
local to_restore = ''

-- Gives the removed defaults to a deletion, or with '' to the caller.
local function pass_defaults(to)
    if record then redis.call('HSET', counters_key, 'removed_defaults', to .. '|' .. record)
    elseif removed then redis.call('HDEL', counters_key, 'removed_defaults') end
    if record and to == '' then to_restore = '|' .. record end
end

if token ~= '' and draining == 'remove' and deletion ~= token and deletion ~= token .. '*' then
    if not deletion then pass_defaults('') end -- the queue may have been deleted
    return {now, effects, was_paused and 1 or 0, drained and 1 or 0, to_restore}
end
if redis.call('HSETNX', counters_key, 'created', now) == 1 then append_effect('queue', name) end
local queue = {[F.queue] = name, [F.type] = ''}
if draining == 'set' then
    if not drained then redis.call('HSET', counters_key, 'draining', now) end
    pass_defaults(token)
    if token == '' then redis.call('HDEL', counters_key, 'deleting')
    else
        local by_operator = drained and (not deletion or string.sub(deletion, -1) == '*')
        redis.call('HSET', counters_key, 'deleting', token .. (by_operator and '*' or ''))
    end
    redis.call('HDEL', counters_key, 'open') -- for enqueue_one.lua, which does not check the flag
elseif draining == 'remove' then
    pass_defaults('')
    redis.call('HDEL', counters_key, 'deleting')
    if token == '' or deletion == token then redis.call('HDEL', counters_key, 'draining') end
end
if paused == 'set' then
    if redis.call('HSETNX', counters_key, 'paused', now) == 1 then emit('queue.paused', '', queue) end
elseif paused == 'remove' and redis.call('HDEL', counters_key, 'paused') == 1 then
    emit('queue.resumed', '', queue)
    if redis.call('ZCARD', available_key) > 0 then wake_queue(name) end
end
paused, draining = unpack(redis.call('HMGET', counters_key, 'paused', 'draining'))
return {now, effects, paused and 1 or 0, draining and 1 or 0, to_restore}
