-- Reads due deliveries of one webhook subscription, or postpones them.
-- Post: a reply without deliveries: webhook_due has the time of the subscription's next attempt, or no entry if
--       no delivery is pending. If numbers without a delivery were found, only these are removed.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 webhook_pending of the subscription, 2 webhook_deliveries, 3 webhook_due.
-- ARGV: 1 subscription, 2 maximum number, 3 0, or ms for which the deliveries are postponed.
-- Returns: {now, number of pending deliveries, per delivery: number, delivery, attempts or ''}
--          attempts: see webhook_record.lua
--@include now long_lists
local PENDING_DELIVERIES, DELIVERIES, DUE_SUBSCRIPTIONS = KEYS[1], KEYS[2], KEYS[3]
local id, limit, wait_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local MAX_BYTES = 1024 * 1024
local reply, gone, bytes = {now, redis.call('ZCARD', PENDING_DELIVERIES)}, {}, 0
if wait_ms == 0 then
    for _, number in ipairs(redis.call('ZRANGEBYSCORE', PENDING_DELIVERIES, '-inf', now, 'LIMIT', 0, limit)) do
        local delivery, attempts = unpack(redis.call('HMGET', DELIVERIES, number, 'a' .. number))
        if not delivery then gone[#gone + 1] = number
        elseif bytes < MAX_BYTES then
            bytes = bytes + #delivery
            reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = number, delivery, attempts or ''
        end
    end
end
if #reply == 2 and #gone == 0 then
    local first = redis.call('ZRANGE', PENDING_DELIVERIES, 0, 0, 'WITHSCORES')[2]
    if first then redis.call('ZADD', DUE_SUBSCRIPTIONS, math.max(tonumber(first), now + wait_ms), id)
    else redis.call('ZREM', DUE_SUBSCRIPTIONS, id) end
end
-- Last: a set that becomes empty is deleted (see preflight.lua).
call_in_slices('ZREM', PENDING_DELIVERIES, gone)
return reply
