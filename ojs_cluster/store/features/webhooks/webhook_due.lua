-- Reads which webhook subscriptions have a due delivery in this shard.
-- Memory: no-writes.
-- KEYS: 1 webhook_due.
-- Returns: {now, time of the next delivery that is not due (ms) or -1, ids of subscriptions...}
--@include now
local DUE_SUBSCRIPTIONS = KEYS[1]
local MAX_IDS = 1000 -- a guard: there are at most 100 subscriptions
local reply = {now, -1}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE_SUBSCRIPTIONS, '-inf', now, 'LIMIT', 0, MAX_IDS)) do
    reply[#reply + 1] = id
end
local first = redis.call('ZRANGEBYSCORE', DUE_SUBSCRIPTIONS, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[2] then reply[2] = tonumber(first[2]) end
return reply
