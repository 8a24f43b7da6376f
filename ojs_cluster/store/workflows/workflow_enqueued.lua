-- Some of a workflow's jobs have been enqueued; what has ended meanwhile stays as it is.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 wf:.  ARGV: 1.. numbers of the jobs; none to read only.
-- Returns: {'ok', state, marks, now} | {'missing'}
--@include now
local state, marks = unpack(redis.call('HMGET', KEYS[1], 'state', 'marks'))
if not state then return {'missing'} end
for _, number in ipairs(ARGV) do
    local at = tonumber(number) + 1
    if string.sub(marks, at, at) == '.' then
        marks = string.sub(marks, 1, at - 1) .. 'q' .. string.sub(marks, at + 1)
    end
end
if #ARGV > 0 then redis.call('HSET', KEYS[1], 'marks', marks) end
return {'ok', state, marks, now}
