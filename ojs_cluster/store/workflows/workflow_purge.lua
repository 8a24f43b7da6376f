-- Transition: ended -> gone, for up to `limit` workflows of one shard whose retention is over.
-- Post: no key of such a workflow remains; its jobs have a retention of their own.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the shard's wfin, 2 wfs.  ARGV: 1 limit.
-- Returns: {workflows removed, now, ms of the next removal or -1}
--@include keys now long_lists
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
    redis.call('EXISTS', KEYS[1], workflow_keys(id))
end
for _, id in ipairs(due) do
    redis.call('UNLINK', workflow_keys(id))
end
local first = redis.call('ZRANGE', KEYS[1], #due, #due, 'WITHSCORES')
-- Last: a set that becomes empty vanishes (see look.lua).
call_in_slices('ZREM', KEYS[1], due)
call_in_slices('ZREM', KEYS[2], due)
return {#due, now, first[2] and tonumber(first[2]) or -1}
