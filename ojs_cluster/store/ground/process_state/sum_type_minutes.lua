-- Sums the records of the last minutes, or of the last full hours, of a type.
-- Memory: no-writes.
-- KEYS: 1 type_history or type_hour_history of the type.
-- ARGV: 1 number of numbers of a record, 2 number of the oldest record to sum, from 1 for the newest one, 3 records kept,
--       4 minutes of a record: 1 or 60, 5 number of the first record to sum, 6 the newest record: '' for the first call
--       of a type, then as returned.
-- Returns: {the sums, none for a type without records, the fine times as a text, number of the next record to sum (beyond
--           ARGV[2] at the end), the newest record}
--@include now fine_times
local MAX_BYTES = 40000 -- of fine times per call, at most one record more: a bucket takes a microsecond or two
local width, span, kept, first = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5])
-- A record of a minute has the number of the next one, and a record of an hour has its own.
-- A minute may end between two calls, which then would count a record twice.
local newest = tonumber(ARGV[6]) or ARGV[4] == '60' and math.floor(now / 3600000) - 1 or math.floor(now / 60000) + 1
local slots, fine_slots = {}, {}
for i = first, span do
    slots[#slots + 1] = string.format('%.0f', (newest - i + 1) % kept)
    fine_slots[#fine_slots + 1] = 'f' .. slots[#slots]
end
local sums, times, bytes, done = {}, new_times(), 0, 0
local texts, records = redis.call('HMGET', KEYS[1], unpack(slots)), redis.call('HMGET', KEYS[1], unpack(fine_slots))
while done < #slots and bytes < MAX_BYTES do
    done = done + 1
    local minute, text, record, number = newest - first - done + 2, texts[done], records[done], 0
    add_times_record(times, record, minute)
    bytes = bytes + #(record or '')
    -- Records of an earlier round of the hash have other numbers.
    if text and string.match(text, '^%d+') == string.format('%.0f', minute) then
        for part in string.gmatch(text .. ',', '(%d*),') do
            if number > 0 then sums[number] = (sums[number] or 0) + (tonumber(part) or 0) end
            number = number + 1
        end
    end
end
for n = 1, sums[1] and width or 0 do sums[n] = math.min(sums[n] or 0, 2 ^ 52) end
return {sums, join_times(times), first + done, newest}
