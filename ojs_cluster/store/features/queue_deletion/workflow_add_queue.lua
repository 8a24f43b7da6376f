-- Adds a queue to those that a workflow's jobs are moved to.
-- Post: the workflow names the queue, once. A missing or malformed workflow does not change.
-- Memory: allow-oom; adds the name of a queue.
-- KEYS: 1 wf:<id>.
-- ARGV: 1 the queue.
-- Returns: {'ok'} | {'missing'} | {'malformed'}
--@include load_workflow
local WORKFLOW = KEYS[1]
local queue = ARGV[1]
local state, reply, _, _, queues = load_workflow(WORKFLOW, 'moved_to')
if not state then return reply end
queues = queues or ''
if not string.find(' ' .. queues .. ' ', ' ' .. queue .. ' ', 1, true) then
    redis.call('HSET', WORKFLOW, 'moved_to', queues == '' and queue or queues .. ' ' .. queue)
end
return {'ok'}
