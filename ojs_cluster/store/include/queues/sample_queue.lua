-- Samples of a queue's numbers, for the history of statistics. A sample is the list of the totals and times,
-- which only grow, followed by the number of jobs in each waiting or active state. The field `last` of
-- queue_history has the previous sample. The growth since then is added to history_totals of the shard. These
-- totals never shrink, because they outlive the queue. store/features/statistics/records.py has the same names in order.
local TOTALS = {'enqueued', 'acked', 'failed', 'retried_total', 'discarded_total', 'cancelled_total',
    'expired_total', 'run_ms', 'wait_ms'}
local TIMES = {} -- buckets of waits and of run times, then the sums in ms (see store/ground/process_state/job_counts.py)
for i = 1, 14 do TIMES[i] = 'w' .. i end
for i = 1, 16 do TIMES[14 + i] = 'r' .. i end
TIMES[31], TIMES[32] = 'first_wait_ms', 'completed_run_ms'
local COUNTED_STATES = {'scheduled', 'pending', 'active', 'retryable'}

-- Returns a number that a counter may hold. Damaged counters count as 0.
local function whole_number(text)
    local number = tonumber(text)
    if number and number % 1 == 0 and number >= 0 and number < 2 ^ 53 then return number end
    return 0
end

-- Returns the sample of a queue, nil for a queue that does not exist.
local function sample_queue(counters_key, available_key, blocked_key, times_key)
    if redis.call('EXISTS', counters_key, times_key) == 0 then return nil end
    local sample = {}
    for i, value in ipairs(redis.call('HMGET', counters_key, unpack(TOTALS))) do
        sample[i] = whole_number(value)
    end
    -- The times lie in the shard of the queue's first partition only.
    for i, value in ipairs(redis.call('HMGET', times_key, unpack(TIMES))) do
        sample[#TOTALS + i] = whole_number(value)
    end
    for _, value in ipairs(redis.call('HMGET', counters_key, unpack(COUNTED_STATES))) do
        sample[#sample + 1] = whole_number(value)
    end
    sample[#sample + 1] = redis.call('ZCARD', available_key) + redis.call('ZCARD', blocked_key)
    return sample
end

-- Returns numbers as a text. Zeros are left out between the commas: most numbers of a record are zeros.
local function join_numbers(numbers)
    local texts = {}
    for i = 1, #numbers do texts[i] = numbers[i] == 0 and '' or string.format('%.0f', numbers[i]) end
    return table.concat(texts, ',')
end

-- Returns by how much each total has grown since the sample `last`. A total that has shrunk belongs to a new
-- queue of the same name. After a damaged sample the growth is unknown, and counts as none.
local function growth_since(last, sample)
    local before, growth = {}, {}
    for text in string.gmatch(last and last .. ',' or '', '([^,]*),') do
        before[#before + 1] = text == '' and 0 or tonumber(text)
    end
    local known = not last or #before == #sample
    for i = 1, #TOTALS + #TIMES do
        local old = before[i] or 0
        growth[i] = not known and 0 or sample[i] >= old and sample[i] - old or sample[i]
    end
    return growth
end

local function read_totals(key)
    local totals = {}
    for i, value in ipairs(redis.call('HMGET', key, unpack(TOTALS))) do totals[i] = whole_number(value) end
    for i, value in ipairs(redis.call('HMGET', key, unpack(TIMES))) do
        totals[#TOTALS + i] = whole_number(value)
    end
    return totals
end

local function write_totals(key, totals)
    local changed = {}
    for i = 1, #totals do
        changed[2 * i - 1], changed[2 * i] = TOTALS[i] or TIMES[i - #TOTALS], string.format('%.0f', totals[i])
    end
    redis.call('HSET', key, unpack(changed))
end
