-- Reads the names of cron jobs that are due for a check. The caller reads the definitions one by one, because
-- they may be large. Removes names without a cron job from the index.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 crons.
-- ARGV: 1 maximum number of names.
-- Returns: {now, time of the next check that is not due (ms; -1 none), then names}
--@include keys now long_lists
local CRONS, limit = KEYS[1], ARGV[1]
local reply, gone = {now, -1}, {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', CRONS, '-inf', now, 'LIMIT', 0, limit)) do
    local exists = redis.call('EXISTS', CRONS, cron_key(name)) == 2
    table.insert(exists and reply or gone, name)
end
local after = redis.call('ZRANGEBYSCORE', CRONS, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if after[2] then reply[2] = tonumber(after[2]) end
-- Last: a set that becomes empty is deleted (see preflight.lua).
call_in_slices('ZREM', CRONS, gone)
return reply
