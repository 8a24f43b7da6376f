-- Samples some queues of a shard: adds the growth of their totals to the totals of the shard. The history of
-- each queue that has changed gets a record with this growth and the numbers of jobs.
-- Pre:  none. A queue that does not exist, or has not changed, is left out.
-- Post: each queue's history has this sample in the field `last`, so a repetition adds nothing.
-- Memory: allow-oom; adds 300 bytes per queue and minute, for 120 minutes.
-- KEYS: 1 history_totals, then per queue: queue_counters, queue_available, queue_blocked, queue_history,
--       queue_times.
-- ARGV: 1 the minute at whose start the samples are taken, in Unix minutes, 2 minutes kept per queue.
-- Returns: {totals of the shard, numbers of jobs of these queues by state}, in the order of sample_queue.lua
--@include sample_queue
local minute, kept = tonumber(ARGV[1]), tonumber(ARGV[2])
local totals, depths, samples = read_totals(KEYS[1]), {0, 0, 0, 0, 0}, {}
for i = 2, #KEYS, 5 do
    local sample = sample_queue(KEYS[i], KEYS[i + 1], KEYS[i + 2], KEYS[i + 4])
    if sample then
        local last, text = redis.call('HGET', KEYS[i + 3], 'last'), join_numbers(sample)
        local numbers = {}
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
local reply = {{}, depths}
for i = 1, #totals do reply[1][i] = string.format('%.0f', totals[i]) end
return reply
