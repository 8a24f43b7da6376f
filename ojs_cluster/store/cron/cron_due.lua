-- The names of cron jobs that the scheduler must look at now. Their definitions may be large, and are read
-- one by one.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 crons.
-- ARGV: 1 most of them.
-- Returns: {now, ms of the next look after these (-1 none), then names}
--@include keys now long_lists
local reply, gone = {now, -1}, {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
    local there = redis.call('EXISTS', KEYS[1], cron_key(name)) == 2
    table.insert(there and reply or gone, name)
end
local after = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if after[2] then reply[2] = tonumber(after[2]) end
-- Last: a set that becomes empty vanishes (see look.lua).
call_in_slices('ZREM', KEYS[1], gone)
return reply
