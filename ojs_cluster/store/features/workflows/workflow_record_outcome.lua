-- Transition: unknown | enqueued -> completed | discarded | cancelled, once, for the node status of one job.
-- Post: the outcome is recorded. The first call decides; repetition changes nothing.
-- Memory: allow-oom; adds the result or the error of one job.
-- KEYS: 1 wf:<id>, 2 wr:<id>, 3 events, 4 running_workflows, 5 wd:<id>.
-- ARGV: 1 events kept, 2 workflow id, 3 number of the job,
--       4 node status: 'c' completed | 'd' discarded | 'x' cancelled,
--       5 '<start> <end> <attempt>' (times in ms), 6 result as JSON or '', 7 error as JSON or '',
--       8 members of the event's data as JSON without braces, 9 time for which the job ran (ms),
--       10 number of a job whose definition is returned, absent for none.
-- Returns: {'ok', state, node statuses, now, 1 when this call has recorded the outcome, otherwise 0,
--           definition or ''} | {'missing'} | {'malformed'}
-- The field `left` has the number of jobs that have not ended, and the number of fields that the record had when they
-- were counted. A version that does not know `left` adds a field with each outcome, so then they are counted again.
--@include keys now read_job append_event check_pauses load_workflow
begin_events(ARGV[1])
local WORKFLOW, RESULTS, RUNNING = KEYS[1], KEYS[2], KEYS[4]
local id, number, status, times = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local result, error, event_data, ran_ms = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local state, statuses, kind, _, left = load_workflow(WORKFLOW, 'left')
if not state then return statuses end
local definition = ARGV[10] and redis.call('HGET', KEYS[5], ARGV[10]) or ''
local at = tonumber(number) + 1
local old_status = string.sub(statuses, at, at)
if old_status ~= '.' and old_status ~= 'q' then return {'ok', state, statuses, now, 0, definition} end
local remaining, fields = string.match(left or '', '^(%d+) (%d+)$')
if tonumber(fields) ~= redis.call('HLEN', WORKFLOW) then
    remaining = select(2, string.gsub(statuses, '[.q]', ''))
end
remaining = remaining - 1
statuses = string.sub(statuses, 1, at - 1) .. status .. string.sub(statuses, at + 1)
redis.call('HSET', WORKFLOW, 'node_statuses', statuses, 't' .. number, times)
redis.call('ZADD', RUNNING, 'XX', now + CHECK_MS, id)
if error ~= '' then redis.call('HSET', WORKFLOW, 'e' .. number, error) end
if result ~= '' then redis.call('HSET', RESULTS, number, result) end
if not left then redis.call('HSET', WORKFLOW, 'left', '') end
redis.call('HSET', WORKFLOW, 'left', remaining .. ' ' .. redis.call('HLEN', WORKFLOW))
if status == 'c' then
    emit('workflow.step_completed', id, {[F.type] = kind, [F.queue] = ''}, 'D',
        string.format('%s,"duration_ms":%s,"steps_remaining":%d', event_data, ran_ms, remaining))
end
return {'ok', state, statuses, now, 1, definition}
