-- Transition: pending -> delivered | pending | dead | (nothing), for one webhook delivery after an attempt.
-- Pre:  the delivery is pending. Otherwise another process has recorded its end, and nothing changes.
-- Post: 'delivered': the delivery is kept until enough newer ones are delivered in this shard.
--       'failed':    the attempt is counted, and the next one is scheduled.
--       'dead':      the delivery is kept until enough newer ones are dead. An operator can retry it.
--       'dropped':   the delivery is removed, because its subscription was deleted.
-- Memory: allow-oom; adds 900 bytes, of which 400 say why the attempt failed.
-- KEYS: 1 webhook_pending of the subscription, 2 webhook_deliveries, 3 webhook_delivered, 4 webhook_dead,
--       5 webhook_counts.
-- ARGV: 1 subscription, 2 number, 3 outcome, 4 ms until the next attempt, 5 status of the response, 0 for no
--       response, 6 why there was no response or '', 7 maximum number of delivered and 8 of dead
--       deliveries.
-- Returns: 'ok' | 'gone'
--@include now long_lists
local PENDING_DELIVERIES, DELIVERIES, COUNTS = KEYS[1], KEYS[2], KEYS[5]
local DELIVERED, DEAD_DELIVERIES = KEYS[3], KEYS[4]
local id, number, outcome, wait_ms, status = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
if not redis.call('ZSCORE', PENDING_DELIVERIES, number) then return 'gone' end
local attempts_field = 'a' .. number -- number of attempts, time (ms), outcome, status and error of the last
if outcome == 'dropped' then
    redis.call('HDEL', DELIVERIES, number, attempts_field)
    redis.call('ZREM', PENDING_DELIVERIES, number)
    return 'ok'
end

-- Removes the oldest deliveries of a set above the maximum.
local function remove_excess(set, maximum)
    local excess = redis.call('ZCARD', set) - maximum
    if excess <= 0 then return end
    local removed = redis.call('ZRANGE', set, 0, math.min(excess, 1000) - 1)
    local fields = {}
    for _, removed_number in ipairs(removed) do
        fields[#fields + 1] = removed_number
        fields[#fields + 1] = 'a' .. removed_number
    end
    call_in_slices('HDEL', DELIVERIES, fields)
    call_in_slices('ZREM', set, removed)
end

local attempts = tonumber(string.match(redis.call('HGET', DELIVERIES, attempts_field) or '', '^(%d+) ')) or 0
redis.call('HSET', DELIVERIES, attempts_field,
    string.format('%.0f %.0f %s %s %s', attempts + 1, now, outcome, status, ARGV[6]))
increment(COUNTS, outcome .. ':' .. id, 1)
increment(COUNTS, outcome .. ':', 1) -- of all subscriptions, also deleted ones
redis.call('HSET', COUNTS, 'last:' .. id, string.format('%.0f %s', now, status))
if outcome == 'delivered' then
    redis.call('HDEL', COUNTS, 'since:' .. id, 'error:' .. id)
    redis.call('HSET', COUNTS, 'success:' .. id, string.format('%.0f', now))
else
    -- The time of the first failure after a success, and the number of failures since then.
    local since, failures = string.match(redis.call('HGET', COUNTS, 'since:' .. id) or '', '^(%d+) (%d+)$')
    redis.call('HSET', COUNTS, 'since:' .. id, string.format('%.0f %.0f', since or now, (failures or 0) + 1))
    redis.call('HSET', COUNTS, 'error:' .. id, ARGV[6])
end
if outcome == 'failed' then
    redis.call('ZADD', PENDING_DELIVERIES, now + wait_ms, number)
elseif outcome == 'delivered' then
    redis.call('ZADD', DELIVERED, now, number)
    remove_excess(DELIVERED, tonumber(ARGV[7]))
else
    redis.call('ZADD', DEAD_DELIVERIES, now, number)
    remove_excess(DEAD_DELIVERIES, tonumber(ARGV[8]))
end
if outcome ~= 'failed' then redis.call('ZREM', PENDING_DELIVERIES, number) end
return 'ok'
