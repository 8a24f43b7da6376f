-- Transition: (nothing) -> running, for one workflow. Its jobs have ids, but do not exist yet.
-- Post: record and definitions are stored, and the effect that starts the workflow is in the outbox.
--       A repetition changes nothing.
-- Memory: deny-oom.
-- KEYS: 1 wf:<id>, 2 wd:<id>, 3 workflows, 4 events, 5 outbox_due, 6 outbox, 7 running_workflows,
--       8 ended_workflows.
-- ARGV: 1 events kept, 2 id, 3 type, 4 name, 5 plan, 6 node statuses, 7 members of the event's data
--       as JSON without braces, 8 number of definitions that workflow_store_portion.lua has stored, then for
--       each other definition: number of its job, definition.
-- Returns: {'ok', time of creation (ms), effects} | {'lost'} when stored definitions are missing
--@include keys now read_job append_event set_deadline append_effect check_pauses
begin_events(ARGV[1])
local WORKFLOW, DEFINITIONS, WORKFLOWS = KEYS[1], KEYS[2], KEYS[3]
local RUNNING, ENDED = KEYS[7], KEYS[8]
local id, kind, name, plan, statuses, event_data = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local definitions_stored = tonumber(ARGV[8])
if redis.call('HEXISTS', WORKFLOW, 'created') == 0
    and redis.call('HLEN', DEFINITIONS) ~= definitions_stored then
    return {'lost'}
end
if redis.call('HSETNX', WORKFLOW, 'created', now) == 0 then
    -- The reply was lost: return the same again. An effect that is not in the outbox was delivered.
    local number = redis.call('HGET', WORKFLOW, 'start')
    local effect = redis.call('HGET', OUTBOX, number)
    return {'ok', tonumber(redis.call('HGET', WORKFLOW, 'created')), effect and {number, effect} or {}}
end
redis.call('HSET', WORKFLOW, 'state', 'running', 'type', kind, 'name', name, 'plan', plan,
    'node_statuses', statuses)
call_in_slices('HSET', DEFINITIONS, {unpack(ARGV, 9)})
redis.call('ZADD', WORKFLOWS, now, id)
redis.call('ZADD', RUNNING, now + CHECK_MS, id)
append_effect('workflow_start', id)
-- The record has eight fields: see workflow_record_outcome.lua.
redis.call('HSET', WORKFLOW, 'start', effects[1], 'left', #statuses .. ' 8')
emit('workflow.started', id, {[F.type] = kind, [F.queue] = ''}, 'D', event_data)
-- workflow_store_portion.lua has added the id to ended_workflows.
if definitions_stored ~= 0 then redis.call('ZREM', ENDED, id) end
return {'ok', now, effects}
