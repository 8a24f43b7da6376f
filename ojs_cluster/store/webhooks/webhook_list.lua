-- Reads the newest deliveries of each given set in one shard. The reply ends after about 256 KiB.
-- Memory: no-writes.
-- KEYS: 1 webhook_deliveries, then sorted sets of deliveries: webhook_delivered, webhook_dead, or
--       webhook_pending of subscriptions.
-- ARGV: 1 maximum number per set.
-- Returns: per delivery: position of its set (1-based), number, delivery, attempts (webhook_record.lua) or '',
--          score in its set: time of the next attempt, or of its end (ms)
local DELIVERIES, limit = KEYS[1], tonumber(ARGV[1])
local MAX_BYTES = 256 * 1024
local OTHER_BYTES = 100 -- about the size of a delivery's other values in the reply
local reply, bytes = {}, 0
for i = 2, #KEYS do
    local rows = redis.call('ZREVRANGE', KEYS[i], 0, limit - 1, 'WITHSCORES')
    for j = 1, #rows, 2 do
        if bytes >= MAX_BYTES then return reply end
        local number = rows[j]
        local delivery, attempts = unpack(redis.call('HMGET', DELIVERIES, number, 'a' .. number))
        if delivery then
            bytes = bytes + #delivery + OTHER_BYTES
            local at = #reply
            reply[at + 1], reply[at + 2], reply[at + 3] = i - 1, number, delivery
            reply[at + 4], reply[at + 5] = attempts or '', rows[j + 1]
        end
    end
end
return reply
