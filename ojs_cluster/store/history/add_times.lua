-- Adds the waits and runs that a process has counted to those of a queue.
-- Post: the times end with the queue, and KEPT_MS after the last addition at the latest.
-- Memory: allow-oom; a queue has at most 32 numbers.
-- KEYS: 1 queue_times.
-- ARGV: 1 ms for which the times are kept, then names of fields and what to add to each.
-- Returns: 1
local names, write = {}, {}
for i = 2, #ARGV, 2 do names[#names + 1] = ARGV[i] end
if not names[1] then return 1 end
for i, value in ipairs(redis.call('HMGET', KEYS[1], unpack(names))) do
    local before = tonumber(value) or 0
    if before % 1 ~= 0 or before < 0 or before >= 2 ^ 52 then before = 0 end
    write[2 * i - 1], write[2 * i] = names[i], string.format('%.0f', before + tonumber(ARGV[2 * i + 1]))
end
redis.call('HSET', KEYS[1], unpack(write))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
