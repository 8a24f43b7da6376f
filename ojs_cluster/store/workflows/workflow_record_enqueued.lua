-- Transition: unknown -> enqueued, for node statuses of one workflow's jobs. Jobs that have ended stay ended.
-- Post: the jobs' node statuses are 'q', unless they were known. Without jobs it only reads.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 wf:<id>.
-- ARGV: 1.. numbers of the jobs; none to read only.
-- Returns: {'ok', state, node statuses, now} | {'missing'}
--@include now
local WORKFLOW = KEYS[1]
local state, statuses = unpack(redis.call('HMGET', WORKFLOW, 'state', 'marks'))
if not state then return {'missing'} end
for _, number in ipairs(ARGV) do
    local at = tonumber(number) + 1
    if string.sub(statuses, at, at) == '.' then
        statuses = string.sub(statuses, 1, at - 1) .. 'q' .. string.sub(statuses, at + 1)
    end
end
if #ARGV > 0 then redis.call('HSET', WORKFLOW, 'marks', statuses) end
return {'ok', state, statuses, now}
