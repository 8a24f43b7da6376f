-- Removes pending deliveries of a deleted webhook subscription. With the last of them it removes the counts.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 webhook_pending of the subscription, 2 webhook_deliveries, 3 webhook_due, 4 webhook_counts.
-- ARGV: 1 subscription, 2 maximum number of deliveries.
-- Returns: {now, number of removed deliveries, number of remaining ones}
--@include now long_lists
local PENDING_DELIVERIES, DELIVERIES, DUE_SUBSCRIPTIONS, COUNTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, limit = ARGV[1], tonumber(ARGV[2])
local total = redis.call('ZCARD', PENDING_DELIVERIES)
local removed, fields = redis.call('ZRANGE', PENDING_DELIVERIES, 0, limit - 1), {}
for _, number in ipairs(removed) do
    fields[#fields + 1] = number
    fields[#fields + 1] = 'a' .. number -- its attempts (webhook_record.lua)
end
if total <= limit then
    redis.call('HDEL', COUNTS, 'delivered:' .. id, 'failed:' .. id, 'dead:' .. id, 'full:' .. id, 'last:' .. id,
        'since:' .. id, 'error:' .. id, 'success:' .. id)
    redis.call('ZREM', DUE_SUBSCRIPTIONS, id)
end
call_in_slices('HDEL', DELIVERIES, fields)
call_in_slices('ZREM', PENDING_DELIVERIES, removed)
return {now, #removed, total - #removed}
