-- Adds what a process has counted about the jobs of a queue: waits and runs, and jobs by type.
-- Post: the queue has counts of at most ARGV[2] types. Jobs of further types are counted under ARGV[3]. Both
--       hashes expire ARGV[1] ms from now. The fine times are added to the record of the present minute, in a field
--       that a later minute replaces.
-- Memory: allow-oom; 32 numbers, a record of up to 6 KiB (mostly 300 bytes) per minute kept, and up to 400 bytes per
--         type.
-- KEYS: 1 queue_times, 2 queue_types.
-- ARGV: 1 time until the counts expire (ms), 2 maximum number of types, 3 the name for further types, 4 minutes kept,
--       5 fine times or an empty text, 6 number of times, then per time: field, number to add; then per type: type,
--       jobs enqueued, completed, discarded
-- Returns: 1
--@include now fine_times
local first_type = 7 + 2 * tonumber(ARGV[6])

-- Returns a stored number, 0 for a damaged one, or one that is too large to add to.
local function stored_number(text)
    local number = tonumber(text) or 0
    return number % 1 == 0 and number >= 0 and number < 2 ^ 52 and number or 0
end

local names, times = {}, {}
for i = 7, first_type - 1, 2 do names[#names + 1] = ARGV[i] end
for i, value in ipairs(names[1] and redis.call('HMGET', KEYS[1], unpack(names)) or {}) do
    times[2 * i - 1] = names[i]
    times[2 * i] = string.format('%.0f', stored_number(value) + tonumber(ARGV[6 + 2 * i]))
end
if ARGV[5] ~= '' then
    -- The record has the number of the next minute, at whose start it is complete.
    local minute = math.floor(now / 60000) + 1
    local field = 'f' .. string.format('%.0f', minute % tonumber(ARGV[4]))
    times[#times + 1] = field
    times[#times + 1] = with_times(redis.call('HGET', KEYS[1], field), minute, ARGV[5])
end

-- A new type of a queue that has the maximum number of types is counted under types[1].
local types, sums, free = {ARGV[3]}, {}, tonumber(ARGV[2]) - redis.call('HLEN', KEYS[2])
for i = first_type, #ARGV, 4 do types[#types + 1] = ARGV[i] end
local stored, type_counts = redis.call('HMGET', KEYS[2], unpack(types)), {}
for i = 2, #types do
    local position = i
    if types[i] == types[1] then position = 1
    elseif not stored[i] then
        if free <= 0 then position = 1 end
        free = free - 1
    end
    local sum = sums[position] or {string.match(stored[position] or '', '^(%d+),(%d+),(%d+)$')}
    for n = 1, 3 do
        sum[n] = stored_number(sum[n]) + tonumber(ARGV[first_type + 4 * (i - 2) + n])
    end
    sums[position] = sum
end
for position, sum in pairs(sums) do
    type_counts[#type_counts + 1] = types[position]
    type_counts[#type_counts + 1] = string.format('%.0f,%.0f,%.0f', sum[1], sum[2], sum[3])
end
for i, pairs_ in ipairs({times, type_counts}) do
    if pairs_[1] then
        redis.call('HSET', KEYS[i], unpack(pairs_))
        redis.call('PEXPIRE', KEYS[i], ARGV[1])
    end
end
return 1
