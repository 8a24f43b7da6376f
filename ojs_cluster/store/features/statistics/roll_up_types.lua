-- Stores the sums of the last full hour of some job types, from their records by the minute.
-- Post: type_hours has ARGV[4] types at most. The types whose last jobs are oldest are removed with their hours.
--       A repetition in the same hour stores the same.
-- Memory: allow-oom; adds 150 bytes (600 at most) and fine times (mostly 400 bytes, 6 KiB at most) per type and hour,
--         for 73 hours and 64 types.
-- KEYS: 1 type_hours (scored by the last hour with jobs), then type_history and type_hour_history of each type.
-- ARGV: 1 number of numbers of a record, 2 minutes kept, 3 hours kept, 4 maximum number of types, then the types.
-- Returns: the hour, in Unix hours
--@include keys now fine_times
local index, width, minutes_kept = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local hours_kept, max_types = tonumber(ARGV[3]), tonumber(ARGV[4])
local hour = math.floor(now / 3600000) - 1
local slots, fine_slots, numbers_of, times_of = {}, {}, {}, {}
for i = 1, 60 do
    slots[i] = string.format('%.0f', (hour * 60 + i) % minutes_kept)
    fine_slots[i] = 'f' .. slots[i]
end
local field = string.format('%.0f', hour % hours_kept)
local present, oldest_first = {}, redis.call('ZRANGE', index, 0, -1)
for _, name in ipairs(oldest_first) do present[name] = true end
local count, stored = #oldest_first, {}
for k = 1, (#KEYS - 1) / 2 do
    redis.call('HEXISTS', KEYS[2 * k + 1], field)
    local sums, total, times = {}, 0, new_times()
    for i, record in ipairs(redis.call('HMGET', KEYS[2 * k], unpack(fine_slots))) do
        add_times_record(times, record, hour * 60 + i)
    end
    times_of[k] = join_times(times)
    for i, text in ipairs(redis.call('HMGET', KEYS[2 * k], unpack(slots))) do
        local number = 0
        if text and string.match(text, '^%d+') == string.format('%.0f', hour * 60 + i) then
            for part in string.gmatch(text .. ',', '(%d*),') do
                if number > 0 then sums[number] = math.min((sums[number] or 0) + (tonumber(part) or 0), 2 ^ 52) end
                number = number + 1
            end
        end
    end
    for n = 1, width do
        total = total + (sums[n] or 0)
        sums[n] = (sums[n] or 0) == 0 and '' or string.format('%.0f', sums[n])
    end
    numbers_of[k] = total > 0 and table.concat(sums, ',', 1, width)
    if total > 0 then
        stored[ARGV[4 + k]] = true
        if not present[ARGV[4 + k]] then count = count + 1 end
    end
end
local evicted = {}
for _, name in ipairs(oldest_first) do
    if count > max_types and not stored[name] then
        evicted[#evicted + 1], count = name, count - 1
        redis.call('EXISTS', type_hour_history_key(name))
    end
end
for k, numbers in ipairs(numbers_of) do
    if numbers then
        redis.call('ZADD', index, hour, ARGV[4 + k])
        local record = string.format('%.0f', hour)
        redis.call('HSET', KEYS[2 * k + 1], field, record .. ',' .. numbers, 'f' .. field, record .. ' ' .. times_of[k])
        redis.call('PEXPIRE', KEYS[2 * k + 1], hours_kept * 3600000)
    end
end
redis.call('ZREMRANGEBYSCORE', index, '-inf', string.format('%.0f', hour - hours_kept))
for _, name in ipairs(evicted) do
    redis.call('ZREM', index, name)
    redis.call('UNLINK', type_hour_history_key(name))
end
redis.call('PEXPIRE', index, hours_kept * 3600000)
return hour
