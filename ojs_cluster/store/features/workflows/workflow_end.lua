-- Transition: running -> completed | failed | cancelled, once, for one workflow; or malformed -> removed.
-- Post: the time of its removal is set. After a cancellation the effect that cancels its jobs is in the outbox.
--       A workflow to remove is the first one that workflow_purge.lua removes.
-- Pre:  of a workflow to remove the given fields are unchanged, or its key is no hash.
-- Memory: allow-oom; adds 600 bytes.
-- KEYS: 1 wf:<id>, 2 ended_workflows, 3 events, 4 outbox_due, 5 outbox, 6 running_workflows.
-- ARGV: 1 events kept, 2 id, 3 state, 4 retention (ms), 5 members of the event's data as JSON
--       without braces; for 'removed' then three values for each field that shows the damage: name, '1' or '0' for
--       a missing field, value.
-- Returns: {'ok', state, effects} | {'conflict', state} when the workflow had ended before | {'missing'}
--          {'malformed'} | {'repaired'} when a workflow to remove has changed
--@include keys now read_job append_event set_deadline append_effect load_workflow
begin_events(ARGV[1])
local WORKFLOW, ENDED, RUNNING = KEYS[1], KEYS[2], KEYS[6]
local id, new_state, retention_ms, event_data = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if new_state == 'removed' then
    local kind = redis.call('TYPE', WORKFLOW).ok
    if kind == 'none' then return {'missing'} end
    local is_same = kind ~= 'hash' or #ARGV > 5
    for i = 6, kind == 'hash' and #ARGV or 0, 3 do
        local expected = ARGV[i + 1] == '1' and ARGV[i + 2]
        is_same = is_same and redis.call('HGET', WORKFLOW, ARGV[i]) == expected
    end
    if not is_same then return {'repaired'} end
    redis.call('ZADD', ENDED, 0, id)
    redis.call('ZREM', RUNNING, id)
    return {'ok', new_state, effects}
end
local state, statuses, kind, created = load_workflow(WORKFLOW)
if not state then return statuses end
if state ~= 'running' then return {'conflict', state} end
redis.call('HSET', WORKFLOW, 'state', new_state, 'finished', now)
redis.call('ZADD', ENDED, now + retention_ms, id)
if new_state == 'cancelled' then
    append_effect('workflow_cancel', id)
else
    emit('workflow.' .. new_state, id, {[F.type] = kind, [F.queue] = ''}, 'D',
        string.format('%s,"duration_ms":%.0f', event_data, now - created))
end
redis.call('ZREM', RUNNING, id)
return {'ok', new_state, effects}
