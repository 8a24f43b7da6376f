-- Transition: unknown -> enqueued, for node statuses of one workflow's jobs. Jobs that have ended stay ended.
-- Post: node statuses that were '.' (unknown) are 'q' (enqueued); others are unchanged. Without jobs the script
--       only reads.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 wf:<id>.
-- ARGV: 1.. numbers of the jobs, ascending.
-- Returns: {'ok', state, node statuses, now} | {'missing'} | {'malformed'}
--@include now load_workflow
local WORKFLOW = KEYS[1]
local state, statuses = load_workflow(WORKFLOW)
if not state then return statuses end
local pieces, copied = {}, 0
for _, number in ipairs(ARGV) do
    local at = tonumber(number) + 1
    if string.sub(statuses, at, at) == '.' then
        pieces[#pieces + 1] = string.sub(statuses, copied + 1, at - 1)
        copied = at
    end
end
pieces[#pieces + 1] = string.sub(statuses, copied + 1)
statuses = table.concat(pieces, 'q')
if #ARGV > 0 then redis.call('HSET', WORKFLOW, 'node_statuses', statuses) end
return {'ok', state, statuses, now}
