-- Transition: ended -> deleted, for up to 100 bulk operations whose retention is over.
-- Post: the reply has the ids of the running operations whose next slice is due. Ids whose operation does not
--       exist any more are removed from bulk_running.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 bulk_running, 2 bulk_ended.
-- ARGV: 1 maximum number of ids.
-- Returns: {now, Unix time in ms at which the next slice or removal becomes due, or -1, number of removed
--          operations, then ids, the one that is due longest first}
--@include keys now preflight long_lists
local RUNNING, ENDED, limit = KEYS[1], KEYS[2], ARGV[1]
local old = redis.call('ZRANGEBYSCORE', ENDED, '-inf', now, 'LIMIT', 0, 100)
local due = redis.call('ZRANGEBYSCORE', RUNNING, '-inf', now, 'LIMIT', 0, limit)
for _, id in ipairs(old) do preflight_key(bulk_key(id)) end
run_preflight()
local reply, gone = {now, -1, #old}, {}
for _, id in ipairs(due) do
    -- On a slot that is moving, an absent key may be on the other master. The existing key RUNNING makes the
    -- command fail then, instead of answering "absent" (see preflight.lua).
    local exists = redis.call('EXISTS', RUNNING, bulk_key(id)) == 2
    table.insert(exists and reply or gone, id)
end
for _, zset in ipairs({RUNNING, ENDED}) do
    local after = redis.call('ZRANGEBYSCORE', zset, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if after and (reply[2] < 0 or tonumber(after) < reply[2]) then reply[2] = tonumber(after) end
end
for _, id in ipairs(old) do redis.call('UNLINK', bulk_key(id)) end
-- These writes come last: when they empty a set, no later command may use its key (see preflight.lua).
call_in_slices('ZREM', ENDED, old)
call_in_slices('ZREM', RUNNING, gone)
return reply
