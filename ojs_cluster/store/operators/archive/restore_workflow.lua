-- Transition: (nothing) -> the archived state, for one workflow of an archive.
-- Pre:  no workflow has the id.
-- Post: record, definitions and results are stored, in addition to the portions that workflow_store_portion.lua
--       has stored before. The effect of the outbox entry starts the steps that are ready, or cancels jobs of a
--       cancelled workflow.
-- Memory: deny-oom.
-- KEYS: 1 workflow, 2 workflow_definitions, 3 workflow_results, 4 workflows, 5 ended_workflows, 6 outbox_due,
--       7 outbox, 8 running_workflows.
-- ARGV: 1 id, 2 created (ms), 3 removal time (ms, '' while it runs), 4 kind of the effect ('' for none),
--       5 number of fields, 6 number of definitions, 7.. names and values of the fields, then numbers and
--       values of the definitions, then numbers and values of the results.
-- Returns: {'ok', effects} | {'exists'}
--@include keys now read_job set_deadline append_effect check_pauses
local record, definitions_key, results_key = KEYS[1], KEYS[2], KEYS[3]
local workflows, ended_workflows, running_workflows = KEYS[4], KEYS[5], KEYS[8]
local id, created, removed_at, effect, fields, definitions = unpack(ARGV, 1, 6)
if redis.call('HEXISTS', record, 'state') == 1 then return {'exists'} end
local first_definition = 7 + 2 * fields
local first_result = first_definition + 2 * definitions
call_in_slices('HSET', record, {unpack(ARGV, 7, first_definition - 1)})
call_in_slices('HSET', definitions_key, {unpack(ARGV, first_definition, first_result - 1)})
call_in_slices('HSET', results_key, {unpack(ARGV, first_result)})
redis.call('ZADD', workflows, created, id)
if effect ~= '' then append_effect(effect, id) end
if removed_at ~= '' then
    redis.call('ZADD', ended_workflows, removed_at, id)
else
    redis.call('ZREM', ended_workflows, id)
    redis.call('ZADD', running_workflows, now + CHECK_MS, id)
end
return {'ok', effects}
