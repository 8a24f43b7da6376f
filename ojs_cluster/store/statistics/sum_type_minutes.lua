-- Sums the records of the last minutes of some types.
-- Memory: no-writes.
-- KEYS: 1 type_history of the first type, then of each further type.
-- ARGV: 1 number of numbers of a record, 2 minutes to sum, 3 minutes kept.
-- Returns: per type the sums; no numbers for a type without records
--@include now
local width, span, kept = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local minute, slots = math.floor(now / 60000) + 1, {}
for i = 1, span do slots[i] = string.format('%.0f', (minute - i + 1) % kept) end
local reply = {}
for k = 1, KEYS[1] and #KEYS or 0 do
    local sums = {}
    for i, text in ipairs(redis.call('HMGET', KEYS[k], unpack(slots))) do
        local number = 0
        -- Records of an earlier round of the hash have other minutes.
        if text and string.match(text, '^%d+') == string.format('%.0f', minute - i + 1) then
            for part in string.gmatch(text .. ',', '(%d*),') do
                if number > 0 then sums[number] = (sums[number] or 0) + (tonumber(part) or 0) end
                number = number + 1
            end
        end
    end
    for n = 1, sums[1] and width or 0 do sums[n] = math.min(sums[n] or 0, 2 ^ 52) end
    reply[k] = sums
end
return reply
