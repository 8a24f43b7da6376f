-- Reads which webhook subscriptions have a delivery of this shard that is due.
-- Memory: no-writes.
-- KEYS: 1 webhook_due.
-- Returns: {now, time of the next delivery that is not due (ms) or -1, ids of subscriptions...}
--@include now
local DUE_SUBSCRIPTIONS = KEYS[1]
local reply = {now, -1}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE_SUBSCRIPTIONS, '-inf', now, 'LIMIT', 0, 1000)) do
    reply[#reply + 1] = id
end
local first = redis.call('ZRANGEBYSCORE', DUE_SUBSCRIPTIONS, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[2] then reply[2] = tonumber(first[2]) end
return reply
