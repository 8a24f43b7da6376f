-- Adds what fetches of one process got from a worker pool to the sums of all processes.
-- Pre:  the configuration that the process used is the current one; otherwise nothing changes.
-- Post: each number is added. A damaged sum begins again.
-- Memory: allow-oom; adds 20 KiB per pool.
-- KEYS: 1 meta pool_counts of the pool.
-- ARGV: 1 updated_ms of the configuration, then up to 65 pairs: field and number. The fields are queues, and
--       '#' for fetches.
-- Returns: 1 added | 0 the pool has another configuration or does not exist
local counts_key = KEYS[1]
if redis.call('HGET', counts_key, '@') ~= ARGV[1] then return 0 end
local sums = {}
for index = 2, #ARGV, 2 do
    local sum = tonumber(redis.call('HGET', counts_key, ARGV[index])) or 0
    sums[index - 1], sums[index] = ARGV[index], string.format('%.0f', sum + ARGV[index + 1])
end
redis.call('HSET', counts_key, unpack(sums))
return 1
