-- Reads the running workflows of one shard whose next check is due.
-- Memory: no-writes.
-- KEYS: 1 running_workflows.
-- ARGV: 1 maximum number of workflows.
-- Returns: {now, time of the first check in the future (ms) or -1, ids...}
--@include now
local RUNNING, limit = KEYS[1], ARGV[1]
local reply = {now, -1}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', RUNNING, '-inf', now, 'LIMIT', 0, limit)) do
    reply[#reply + 1] = id
end
local first = redis.call('ZRANGEBYSCORE', RUNNING, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[2] then reply[2] = tonumber(first[2]) end
return reply
