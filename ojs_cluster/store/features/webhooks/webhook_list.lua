-- Reads the deliveries with the highest scores of all given sets together in one shard. The score of a delivery is
-- the time of its next attempt, or of its end. The reply ends after about 256 KiB.
-- Memory: no-writes.
-- KEYS: 1 webhook_deliveries, then sorted sets of deliveries: webhook_delivered, webhook_dead, or
--       webhook_pending of subscriptions.
-- ARGV: 1 maximum number, 2 id of the only wanted subscription, '' for all.
-- Returns: {1 if wanted deliveries may be left out although the maximum is not reached, otherwise 0,
--           per delivery: number, delivery, attempts (webhook_record.lua) or '', score (ms)}
local DELIVERIES, limit, wanted = KEYS[1], tonumber(ARGV[1]), ARGV[2]
local MAX_BYTES = 256 * 1024
local OTHER_BYTES = 100 -- about the size of a delivery's other values in the reply
local MAX_READ = 2000 -- deliveries; a shard has at most 1100 that are not pending
local PAGE = 16 -- deliveries of one set
local prefix = wanted ~= '' and #wanted .. ':' .. wanted or ''
local sets = {}

-- Goes to the next delivery of a set, and reads the next page when the last one is used up.
local function advance(set)
    set.at = set.at + 2
    if set.at > #set.rows then
        set.rows = redis.call('ZREVRANGE', set.key, set.offset, set.offset + PAGE - 1, 'WITHSCORES')
        set.at, set.offset = 1, set.offset + PAGE
    end
    set.score = tonumber(set.rows[set.at + 1])
end

for i = 2, #KEYS do
    sets[i - 1] = {key = KEYS[i], rows = {}, at = 0, offset = 0}
    advance(sets[i - 1])
end

-- Returns the number and the score of the next delivery, nil after the last one.
local function next_delivery()
    local first
    for _, set in ipairs(sets) do
        if set.score and (not first or set.score > first.score) then first = set end
    end
    if not first then return end
    local number, score = first.rows[first.at], first.rows[first.at + 1]
    advance(first)
    return number, score
end

local reply, bytes, found = {0}, 0, 0
for read = 1, MAX_READ + 1 do
    if found == limit then return reply end
    local number, score = next_delivery()
    if not number then return reply end
    if read > MAX_READ or bytes >= MAX_BYTES then break end
    local delivery, attempts = unpack(redis.call('HMGET', DELIVERIES, number, 'a' .. number))
    if delivery and string.sub(delivery, 1, #prefix) == prefix then
        bytes, found = bytes + #delivery + OTHER_BYTES, found + 1
        local at = #reply
        reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4] = number, delivery, attempts or '', score
    end
end
reply[1] = 1
return reply
