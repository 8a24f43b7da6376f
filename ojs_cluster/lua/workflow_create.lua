-- Transition: (nothing) -> running, for one workflow. Its jobs have ids, but do not exist yet.
-- Post: record and definitions are stored, and its start is owed. Repeated, it changes nothing.
-- Memory: deny-oom.
-- KEYS: 1 wf:, 2 wd:, 3..7 the shard's wfs, ev, out, ob, wfrun.
-- ARGV: 1 events kept, 2 id, 3 type, 4 name, 5 plan, 6 marks, 7 members of the event's data,
--       then per job its definition.
-- Returns: {'ok', ms of creation, effects}
--@include keys now job event deadline effect unfinished
if redis.call('HSETNX', KEYS[1], 'created', now) == 0 then
    -- The reply was lost: the same answer again. An entry that is gone was carried out.
    local number = redis.call('HGET', KEYS[1], 'start')
    local entry = redis.call('HGET', OUTBOX, number)
    return {'ok', tonumber(redis.call('HGET', KEYS[1], 'created')), entry and {number, entry} or {}}
end
redis.call('HSET', KEYS[1], 'state', 'running', 'type', ARGV[3], 'name', ARGV[4],
    'plan', ARGV[5], 'marks', ARGV[6])
for i = 7 + 1, #ARGV do redis.call('HSET', KEYS[2], i - 8, ARGV[i]) end
redis.call('ZADD', KEYS[3], now, ARGV[2])
redis.call('ZADD', KEYS[7], now + CHECK_MS, ARGV[2])
owe('workflow_start', ARGV[2])
redis.call('HSET', KEYS[1], 'start', effects[1])
emit('workflow.started', ARGV[2], {[F.type] = ARGV[3], [F.queue] = ''}, 'D', ARGV[7])
return {'ok', now, effects}
