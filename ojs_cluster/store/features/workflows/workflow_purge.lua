-- Transition: ended -> (nothing), for up to `limit` workflows of one shard whose retention is over.
-- Post: no key of these workflows remains. Their jobs have a retention of their own.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 ended_workflows, 2 workflows.
-- ARGV: 1 maximum number of workflows.
-- Returns: {number of workflows removed, now, time of the next removal (ms) or -1}
--@include keys now long_lists
local ENDED, WORKFLOWS, limit = KEYS[1], KEYS[2], ARGV[1]
local due = redis.call('ZRANGEBYSCORE', ENDED, '-inf', now, 'LIMIT', 0, limit)
-- Preflight: a moving slot stops the script here.
for _, id in ipairs(due) do
    redis.call('EXISTS', ENDED, workflow_keys(id))
end
for _, id in ipairs(due) do
    redis.call('UNLINK', workflow_keys(id))
end
local first = redis.call('ZRANGE', ENDED, #due, #due, 'WITHSCORES')
-- Last: a set that becomes empty is deleted (see preflight.lua).
call_in_slices('ZREM', ENDED, due)
call_in_slices('ZREM', WORKFLOWS, due)
return {#due, now, first[2] and tonumber(first[2]) or -1}
