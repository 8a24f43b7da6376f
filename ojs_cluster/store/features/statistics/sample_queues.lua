-- Samples some queues of a shard: adds the growth of their totals to the totals of the shard. The history of
-- each queue that has changed gets a record with this growth and the numbers of jobs.
-- Pre:  none. A queue that does not exist, or has not changed, is left out. So is a queue whose keys have a wrong
--       type.
-- Post: each queue's history has this sample in the field `last`, so a repetition adds nothing. A queue that has not
--       changed keeps its older records, so a reader compares the minute in a record.
-- Memory: allow-oom; adds 300 bytes per queue and minute, for ARGV[2] minutes.
-- KEYS: 1 history_totals, then per queue: queue_counters, queue_available, queue_blocked, queue_history,
--       queue_times.
-- ARGV: 1 the minute at whose start the samples are taken, in Unix minutes, 2 minutes kept per queue.
-- Returns: {totals and times of the shard, numbers of jobs of these queues by state, positions from 1 of the queues
--          with a key of a wrong type}, the numbers in the order of sample_queue.lua
--@include sample_queue
local minute, kept = tonumber(ARGV[1]), tonumber(ARGV[2])
-- totals: those of TOTALS, then those of TIMES. depths: of COUNTED_STATES, then of the available and blocked jobs.
local totals, depths, samples, damaged = read_totals(KEYS[1]), {0, 0, 0, 0, 0}, {}, {}

-- Returns the sample of the queue whose keys begin at KEYS[i], and its last sample.
local function read_queue(i)
    local last = redis.call('HGET', KEYS[i + 3], 'last')
    return sample_queue(KEYS[i], KEYS[i + 1], KEYS[i + 2], KEYS[i + 4]), last
end

for i = 2, #KEYS, 5 do
    -- A damaged queue must not end the statistics of all queues.
    local readable, sample, last = pcall(read_queue, i)
    if not readable then
        damaged[#damaged + 1] = (i + 3) / 5
    elseif sample then
        local text, numbers = join_numbers(sample), {}
        for state = 1, #depths do
            numbers[state] = sample[#TOTALS + #TIMES + state]
            depths[state] = depths[state] + numbers[state]
        end
        if last ~= text then
            local growth = growth_since(last, sample)
            for n = 1, #totals do totals[n] = totals[n] + growth[n] end
            samples[#samples + 1] = {key = KEYS[i + 3], text = text, record = string.format('%.0f', minute)
                .. ',' .. join_numbers(growth) .. ',' .. join_numbers(numbers)}
        end
    end
end
for _, sample in ipairs(samples) do
    redis.call('HSET', sample.key, 'last', sample.text, string.format('%.0f', minute % kept), sample.record)
end
if samples[1] then write_totals(KEYS[1], totals) end
local reply = {{}, depths, damaged}
for i = 1, #totals do reply[1][i] = string.format('%.0f', totals[i]) end
return reply
