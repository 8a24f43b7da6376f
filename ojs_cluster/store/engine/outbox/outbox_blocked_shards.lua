-- Reads the unreachable shards that outbox entries of this shard wait for and whose next attempt is due.
-- Memory: no-writes.
-- KEYS: 1 outbox_blocked_shards.
-- Returns: {now, time of the next attempt that is not due (ms) or -1, indexes of shards...}
--@include now
local BLOCKED_SHARDS = KEYS[1]
local reply = {now, -1}
for _, shard in ipairs(redis.call('ZRANGEBYSCORE', BLOCKED_SHARDS, '-inf', now)) do
    reply[#reply + 1] = shard
end
local first = redis.call('ZRANGEBYSCORE', BLOCKED_SHARDS, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[2] then reply[2] = tonumber(first[2]) end
return reply
