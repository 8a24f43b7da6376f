-- The cron jobs that the scheduler must look at now.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 crons.
-- ARGV: 1 most of them.
-- Returns: {now, ms of the next look after these (-1 none), then per cron job: name, fields}
--@include keys now
local names = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local reply = {now, -1}
for _, name in ipairs(names) do
    local flat = redis.call('HGETALL', cron_key(name))
    if #flat == 0 then
        redis.call('ZREM', KEYS[1], name)
    else
        reply[#reply + 1] = name
        reply[#reply + 1] = flat
    end
end
local after = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if after[2] then reply[2] = tonumber(after[2]) end
return reply
