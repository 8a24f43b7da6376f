-- Adds counts of a process to a queue's counts of jobs by waiting time and by run time.
-- Post: the hash of the queue's times expires ARGV[1] ms from now.
-- Memory: allow-oom; a queue has at most 32 numbers.
-- KEYS: 1 queue_times.
-- ARGV: 1 time until the hash expires (ms), then for each field: its name, the number to add.
-- Returns: 1
local names, sums = {}, {}
for i = 2, #ARGV, 2 do names[#names + 1] = ARGV[i] end
if not names[1] then return 1 end
for i, value in ipairs(redis.call('HMGET', KEYS[1], unpack(names))) do
    local old = tonumber(value) or 0
    if old % 1 ~= 0 or old < 0 or old >= 2 ^ 52 then old = 0 end -- damaged
    sums[2 * i - 1], sums[2 * i] = names[i], string.format('%.0f', old + tonumber(ARGV[2 * i + 1]))
end
redis.call('HSET', KEYS[1], unpack(sums))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
