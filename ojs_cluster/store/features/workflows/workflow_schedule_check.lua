-- Sets the time of a workflow's next check, after a check has read its jobs.
-- Post: the older a workflow is, the less often it is checked. So a workflow that runs for days costs little.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 wf:<id>, 2 running_workflows.
-- ARGV: 1 id, 2 '1' to check the workflow again after CHECK_MS, 'malformed' after LONGEST_CHECK_MS, '' for a time
--       that depends on its age.
-- Returns: time of the next check (ms), or -1 when the workflow does not run any more
--@include now check_pauses load_workflow
local WORKFLOW, RUNNING = KEYS[1], KEYS[2]
local id, when = ARGV[1], ARGV[2]
local state, reply, _, created = load_workflow(WORKFLOW)
local is_malformed = when == 'malformed' or not state and reply[1] == 'malformed'
if state ~= 'running' and not is_malformed then
    redis.call('ZREM', RUNNING, id)
    return -1
end
local pause = LONGEST_CHECK_MS
if when == '1' then pause = CHECK_MS
elseif not is_malformed then pause = math.min(math.max(CHECK_MS, now - created), LONGEST_CHECK_MS) end
redis.call('ZADD', RUNNING, now + pause, id)
return now + pause
