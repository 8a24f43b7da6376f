-- Transition: (nothing) -> running, for one workflow. Its jobs have ids, but do not exist yet.
-- Post: record and definitions are stored, and its start is owed. Repeated, it changes nothing.
-- Memory: deny-oom.
-- KEYS: 1 wf:, 2 wd:, 3..8 the shard's wfs, ev, out, ob, wfrun, wfin.
-- ARGV: 1 events kept, 2 id, 3 type, 4 name, 5 plan, 6 marks, 7 members of the event's data,
--       8 how many definitions `workflow_portion` has stored, then numbers and values of the others.
-- Returns: {'ok', ms of creation, effects} | {'lost'} when some that were stored are not there
--@include keys now read_job append_event set_deadline append_effect stalled_after
if redis.call('HEXISTS', KEYS[1], 'created') == 0 and redis.call('HLEN', KEYS[2]) ~= tonumber(ARGV[8]) then
    return {'lost'}
end
if redis.call('HSETNX', KEYS[1], 'created', now) == 0 then
    -- The reply was lost: the same answer again. An entry that is gone was carried out.
    local number = redis.call('HGET', KEYS[1], 'start')
    local entry = redis.call('HGET', OUTBOX, number)
    return {'ok', tonumber(redis.call('HGET', KEYS[1], 'created')), entry and {number, entry} or {}}
end
redis.call('HSET', KEYS[1], 'state', 'running', 'type', ARGV[3], 'name', ARGV[4],
    'plan', ARGV[5], 'marks', ARGV[6])
call_in_slices('HSET', KEYS[2], {unpack(ARGV, 9)})
redis.call('ZADD', KEYS[3], now, ARGV[2])
redis.call('ZADD', KEYS[7], now + CHECK_MS, ARGV[2])
append_effect('workflow_start', ARGV[2])
redis.call('HSET', KEYS[1], 'start', effects[1])
emit('workflow.started', ARGV[2], {[F.type] = ARGV[3], [F.queue] = ''}, 'D', ARGV[7])
if ARGV[8] ~= '0' then redis.call('ZREM', KEYS[8], ARGV[2]) end
return {'ok', now, effects}
