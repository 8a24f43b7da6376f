-- Sums the records of the last minutes, or of the last full hours, of some types.
-- Memory: no-writes.
-- KEYS: 1 type_history or type_hour_history of the first type, then of each further type.
-- ARGV: 1 number of numbers of a record, 2 records to sum, 3 records kept, 4 minutes of a record: 1 or 60.
-- Returns: per type {the sums, the fine times as a text}; no numbers for a type without records
--@include now fine_times
local width, span, kept = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- A record of a minute has the number of the next one, and a record of an hour has its own.
local newest = ARGV[4] == '60' and math.floor(now / 3600000) - 1 or math.floor(now / 60000) + 1
local slots, fine_slots = {}, {}
for i = 1, span do
    slots[i] = string.format('%.0f', (newest - i + 1) % kept)
    fine_slots[i] = 'f' .. slots[i]
end
local reply = {}
for k = 1, KEYS[1] and #KEYS or 0 do
    local sums, times = {}, new_times()
    for i, record in ipairs(redis.call('HMGET', KEYS[k], unpack(fine_slots))) do
        add_times_record(times, record, newest - i + 1)
    end
    for i, text in ipairs(redis.call('HMGET', KEYS[k], unpack(slots))) do
        local number = 0
        -- Records of an earlier round of the hash have other numbers.
        if text and string.match(text, '^%d+') == string.format('%.0f', newest - i + 1) then
            for part in string.gmatch(text .. ',', '(%d*),') do
                if number > 0 then sums[number] = (sums[number] or 0) + (tonumber(part) or 0) end
                number = number + 1
            end
        end
    end
    for n = 1, sums[1] and width or 0 do sums[n] = math.min(sums[n] or 0, 2 ^ 52) end
    reply[k] = {sums, join_times(times)}
end
return reply
