-- How a workflow's job ended, recorded once: whoever comes first decides, repetition changes nothing.
-- Memory: allow-oom; adds the result or the error of one job.
-- KEYS: 1 wf:, 2 wr:, 3 the shard's ev, 4 wfrun.
-- ARGV: 1 events kept, 2 workflow id, 3 job's number, 4 mark: c | d | x,
--       5 'started finished attempt', 6 result JSON or '', 7 error JSON or '',
--       8 members of the event's data, 9 ms the job ran.
-- Returns: {'ok', state, marks, now, 1 when recorded by this call} | {'missing'}
--@include keys now read_job append_event stalled_after
local state, marks, kind = unpack(redis.call('HMGET', KEYS[1], 'state', 'marks', 'type'))
if not state then return {'missing'} end
local at = tonumber(ARGV[3]) + 1
local before = string.sub(marks, at, at)
if before ~= '.' and before ~= 'q' then return {'ok', state, marks, now, 0} end
marks = string.sub(marks, 1, at - 1) .. ARGV[4] .. string.sub(marks, at + 1)
redis.call('HSET', KEYS[1], 'marks', marks, 't' .. ARGV[3], ARGV[5])
redis.call('ZADD', KEYS[4], 'XX', now + CHECK_MS, ARGV[2])
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'e' .. ARGV[3], ARGV[7]) end
if ARGV[6] ~= '' then redis.call('HSET', KEYS[2], ARGV[3], ARGV[6]) end
if ARGV[4] == 'c' then
    local _, left = string.gsub(marks, '[.q]', '')
    emit('workflow.step_completed', ARGV[2], {[F.type] = kind, [F.queue] = ''}, 'D',
        string.format('%s,"duration_ms":%s,"steps_remaining":%d', ARGV[8], ARGV[9], left))
end
return {'ok', state, marks, now, 1}
