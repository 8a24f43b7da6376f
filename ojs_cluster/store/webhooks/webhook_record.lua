-- Transition: pending -> delivered | pending | dead | (nothing), for one delivery of a webhook after an attempt.
-- Pre:  the delivery is pending. Otherwise another process has recorded its end, and nothing changes.
-- Post: 'delivered': among the last deliveries, of which the shard keeps some.
--       'failed':    the attempt is counted, and the next one is scheduled.
--       'dead':      among the dead deliveries, of which the shard keeps more. An operator can retry it.
--       'dropped':   gone, because its subscription is.
-- Memory: allow-oom; adds 600 bytes, of which 200 say why the attempt failed.
-- KEYS: 1 webhook_pending of the subscription, 2 webhook_deliveries, 3 webhook_delivered, 4 webhook_dead,
--       5 webhook_counts.
-- ARGV: 1 subscription, 2 number, 3 outcome, 4 ms until the next attempt, 5 status of the response or 0,
--       6 why there was none or '', 7 most delivered ones, 8 most dead ones.
-- Returns: 'ok' | 'gone'
--@include now long_lists
local PENDING_DELIVERIES, DELIVERIES, DELIVERED, DEAD_DELIVERIES, COUNTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, number, outcome, wait_ms, status = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
if not redis.call('ZSCORE', PENDING_DELIVERIES, number) then return 'gone' end
local state = 'a' .. number
if outcome == 'dropped' then
    redis.call('HDEL', DELIVERIES, number, state)
    redis.call('ZREM', PENDING_DELIVERIES, number)
    return 'ok'
end

-- Removes the oldest members above the maximum, with their deliveries.
local function cap(ended, most)
    local excess = redis.call('ZCARD', ended) - most
    if excess <= 0 then return end
    local removed = redis.call('ZRANGE', ended, 0, math.min(excess, 1000) - 1)
    local fields = {}
    for _, old in ipairs(removed) do
        fields[#fields + 1] = old
        fields[#fields + 1] = 'a' .. old
    end
    call_in_slices('HDEL', DELIVERIES, fields)
    call_in_slices('ZREM', ended, removed)
end

local attempts = tonumber(string.match(redis.call('HGET', DELIVERIES, state) or '', '^(%d+) ')) or 0
redis.call('HSET', DELIVERIES, state, string.format('%.0f %.0f %s %s %s', attempts + 1, now, outcome, status, ARGV[6]))
increment(COUNTS, outcome .. ':' .. id, 1)
increment(COUNTS, outcome .. ':', 1) -- of all subscriptions, deleted ones included
redis.call('HSET', COUNTS, 'last:' .. id, string.format('%.0f %s', now, status))
if outcome == 'failed' then
    redis.call('ZADD', PENDING_DELIVERIES, now + wait_ms, number)
elseif outcome == 'delivered' then
    redis.call('ZADD', DELIVERED, now, number)
    cap(DELIVERED, tonumber(ARGV[7]))
else
    redis.call('ZADD', DEAD_DELIVERIES, now, number)
    cap(DEAD_DELIVERIES, tonumber(ARGV[8]))
end
if outcome ~= 'failed' then redis.call('ZREM', PENDING_DELIVERIES, number) end
return 'ok'
