-- Sets the time of a workflow's next check, after a check has read its jobs.
-- Post: the older a workflow is, the less often it is checked. So a workflow that runs for days costs little.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 wf:<id>, 2 running_workflows.
-- ARGV: 1 id, 2 '1' to check the workflow again after CHECK_MS, '' for a time that depends on its age.
-- Returns: time of the next check (ms), or -1 when the workflow does not run any more
--@include now stalled_after
local WORKFLOW, RUNNING = KEYS[1], KEYS[2]
local id, soon = ARGV[1], ARGV[2] == '1'
local state, created = unpack(redis.call('HMGET', WORKFLOW, 'state', 'created'))
if state ~= 'running' then
    redis.call('ZREM', RUNNING, id)
    return -1
end
local pause = math.min(math.max(CHECK_MS, now - (tonumber(created) or 0)), LONGEST_CHECK_MS)
if soon then pause = CHECK_MS end
redis.call('ZADD', RUNNING, now + pause, id)
return now + pause
