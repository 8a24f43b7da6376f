-- Shards that outbox entries of this shard wait for, and that are to be tried again. Changes nothing.
-- Memory: no-writes.
-- KEYS: 1 the shard's away.
-- Returns: {now, ms of the next try of another or -1, indexes of shards...}
--@include now
local reply = {now, -1}
for _, shard in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
    reply[#reply + 1] = shard
end
local first = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[2] then reply[2] = tonumber(first[2]) end
return reply
