-- Sums the numbers of some queues in this shard; changes nothing. Damaged numbers count as 0.
-- Memory: no-writes.
-- KEYS: 1..5 of the first queue: queue_counters, queue_available, queue_blocked, queue_dead, queue_minutes; then
--       the same of each further queue.
-- ARGV: 1 number of queues, the first ones of KEYS, whose partition 0 is here. Only these count as paused.
-- Returns: {now, creation of the oldest queue in ms or 0, jobs by state: available, then the order of COUNTED;
--          completed jobs, dead letters, paused queues; of the last 60 minutes: completed jobs, failed attempts,
--          their run times and waits in ms}
--@include now
local COUNTED = {'scheduled', 'pending', 'active', 'retryable', 'completed', 'cancelled', 'discarded'}
local TOTALS = {'acked', 'failed', 'run_ms', 'wait_ms'}
local FIELDS = {'paused', 'minute', 'created'}
for _, name in ipairs(COUNTED) do FIELDS[#FIELDS + 1] = name end
for _, name in ipairs(TOTALS) do FIELDS[#FIELDS + 1] = name end
local FIRST_COUNT, FIRST_TOTAL = 4, 4 + #COUNTED
local this_minute, with_pause_flag = math.floor(now / 60000), tonumber(ARGV[1])

-- queue_minutes has one field per minute of an hour. The oldest minutes come first.
local MINUTES = {}
for i = 1, 60 do MINUTES[i] = string.format('%.0f', (this_minute - 60 + i) % 60) end

local function number(text)
    local value = tonumber(text)
    if not value or value ~= value or math.abs(value) >= 2 ^ 53 then return 0 end
    return value < 0 and math.ceil(value) or math.floor(value)
end

-- Returns the totals at the start of the oldest recorded minute of the last 60; nil if there is none.
local function oldest_totals(minutes_key)
    for _, record in ipairs(redis.call('HMGET', minutes_key, unpack(MINUTES))) do
        local totals = {}
        for text in string.gmatch(record or '', '[^,]+') do totals[#totals + 1] = number(text) end
        if #totals == 1 + #TOTALS and totals[1] > this_minute - 60 then return totals end
    end
end

local created, available, dead, paused, counts, acked, growth = 0, 0, 0, 0, {}, 0, {}
for i = 1, #COUNTED do counts[i] = 0 end
for i = 1, #TOTALS do growth[i] = 0 end
for first = 1, #KEYS, 5 do
    local fields = redis.call('HMGET', KEYS[first], unpack(FIELDS))
    available = available + redis.call('ZCARD', KEYS[first + 1]) + redis.call('ZCARD', KEYS[first + 2])
    dead = dead + redis.call('ZCARD', KEYS[first + 3])
    if fields[1] and first <= 5 * with_pause_flag then paused = paused + 1 end
    local since = number(fields[3])
    if since > 0 and (created == 0 or since < created) then created = since end
    for i = 1, #COUNTED do counts[i] = counts[i] + number(fields[FIRST_COUNT + i - 1]) end
    acked = acked + number(fields[FIRST_TOTAL])
    -- The field 'minute' names the last recorded minute, so most queues need no read of their records.
    local recorded = fields[2] and (tonumber(fields[2]) or this_minute) > this_minute - 60
    local before = recorded and oldest_totals(KEYS[first + 4])
    for i = 1, before and #TOTALS or 0 do
        growth[i] = growth[i] + number(fields[FIRST_TOTAL + i - 1]) - before[1 + i]
    end
end
local reply = {now, created, available}
for i = 1, #counts do reply[#reply + 1] = counts[i] end
reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = acked, dead, paused
for i = 1, #growth do reply[#reply + 1] = growth[i] end
return reply
