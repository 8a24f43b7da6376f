-- Running workflows of one shard that have made no progress for long. Changes nothing.
-- Memory: no-writes.
-- KEYS: 1 the shard's wfrun.  ARGV: 1 limit.
-- Returns: {now, ms of the next look at another or -1, ids...}
--@include now
local reply = {now, -1}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
    reply[#reply + 1] = id
end
local first = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[2] then reply[2] = tonumber(first[2]) end
return reply
