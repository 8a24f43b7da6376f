-- Adds what a process has counted about jobs of some types to the records of the present minute.
-- Post: job_types has at most ARGV[3] types and the last one, all with jobs in the last ARGV[2] minutes. Jobs
--       of a further type are counted under the last type, whose key is KEYS[#KEYS]. Each history expires ARGV[2]
--       minutes from now.
-- Memory: allow-oom; adds 150 bytes and fine times (mostly 300 bytes, 6 KiB at most) per type and minute, for 120
--         minutes and 33 types.
-- KEYS: 1 job_types (scored by the ms of the last jobs), then type_history of each type.
-- ARGV: 1 number of numbers of a record, 2 minutes kept, 3 maximum number of types, then per type: type, numbers to
--       add, separated by commas, fine times to add. The last type stands for further types. Its numbers and times may
--       be zeros and empty.
-- Returns: 1
--@include now fine_times
local width, kept, max_types = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- The record of a minute has the number of the next minute, at whose start it is complete.
local minute, index = math.floor(now / 60000) + 1, KEYS[1]
local slot = string.format('%.0f', minute % kept)

-- Returns the numbers of a text, zeros for a damaged one.
local function read_numbers(text)
    local numbers = {}
    for number in string.gmatch((text or '') .. ',', '(%d*),') do
        number = number == '' and 0 or tonumber(number)
        numbers[#numbers + 1] = number < 2 ^ 52 and number or 0
    end
    return numbers
end

local oldest = now - kept * 60000
local count = #KEYS - 1
local function is_known(i) return tonumber(redis.call('ZSCORE', index, ARGV[1 + 3 * i]) or 0) > oldest end
local free = max_types + (is_known(count) and 1 or 0)
    - redis.call('ZCOUNT', index, '(' .. string.format('%.0f', oldest), '+inf')
local sums, times, known = {}, {}, {}
for i = 1, count do
    known[i] = i == count or is_known(i)
    if not known[i] and free > 0 then known[i], free = true, free - 1 end
    local place = known[i] and i or count
    local sum = sums[place] or {}
    times[place] = times[place] or new_times()
    if place == i then
        add_times_record(times[place], redis.call('HGET', KEYS[1 + i], 'f' .. slot), minute)
        local record = read_numbers(redis.call('HGET', KEYS[1 + i], slot))
        -- A record of an earlier version has one number less.
        if (#record == width + 1 or #record == width) and record[1] == minute then
            for n = 1, width do sum[n] = (sum[n] or 0) + (record[n + 1] or 0) end
        end
    end
    for n, number in ipairs(read_numbers(ARGV[2 + 3 * i])) do sum[n] = (sum[n] or 0) + number end
    add_times(times[place], ARGV[3 + 3 * i])
    sums[place] = sum
end
redis.call('ZREMRANGEBYSCORE', index, '-inf', string.format('%.0f', oldest))
for i = 1, count do
    local sum, total, texts = sums[i], 0, {}
    for n = 1, sum and width or 0 do
        texts[n] = (sum[n] or 0) == 0 and '' or string.format('%.0f', sum[n])
        total = total + (sum[n] or 0)
    end
    if total > 0 then
        local fine = join_times(times[i])
        redis.call('ZADD', index, now, ARGV[1 + 3 * i])
        redis.call('HSET', KEYS[1 + i], slot, string.format('%.0f', minute) .. ',' .. table.concat(texts, ','))
        if fine ~= '' then
            redis.call('HSET', KEYS[1 + i], 'f' .. slot, string.format('%.0f', minute) .. ' ' .. fine)
        end
        redis.call('PEXPIRE', KEYS[1 + i], kept * 60000)
    end
end
redis.call('PEXPIRE', index, kept * 60000)
return 1
