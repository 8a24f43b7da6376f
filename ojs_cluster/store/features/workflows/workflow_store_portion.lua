-- Stores a portion of a workflow that will be created or restored: definitions, results, or fields of its
-- record that concern single jobs.
-- Pre:  there is no workflow with the id.
-- Post: the portion is stored. If the workflow is not created within the given time, workflow_purge.lua removes
--       the portion like an ended workflow.
-- Memory: deny-oom.
-- KEYS: 1 wf:<id>, 2 the hash of the portion: wf:<id>, wd:<id> or wr:<id>, 3 ended_workflows.
-- ARGV: 1 workflow id, 2 time within which the workflow must be created (ms), then names and values.
-- Returns: {'ok'} | {'exists'}
--@include now long_lists
local WORKFLOW, PORTION, ENDED = KEYS[1], KEYS[2], KEYS[3]
local id, wait_ms = ARGV[1], ARGV[2]
if redis.call('HEXISTS', WORKFLOW, 'state') == 1 then return {'exists'} end
call_in_slices('HSET', PORTION, {unpack(ARGV, 3)})
redis.call('ZADD', ENDED, now + wait_ms, id)
return {'ok'}
