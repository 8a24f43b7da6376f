-- Reads how many jobs a worker could fetch now from queues of one shard; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 due, then per queue: queue_available, queue_counters, queue_blocked.
-- Returns: {1 when a job of the shard is due, else 0; per queue: jobs that may start, 0 while it is paused,
--          -1 when all its jobs are blocked: only a fetch requests their tokens}
--@include keys now read_job create_limiters count_starts queue_limits
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local reply = {first[2] and tonumber(first[2]) <= now and 1 or 0}
for at = 2, #KEYS, 3 do
    local paused, limits, max_per_second =
        unpack(redis.call('HMGET', KEYS[at + 1], 'paused', 'limits', 'max_per_second'))
    local depth = paused and 0 or redis.call('ZCARD', KEYS[at])
    local blocked = not paused and depth == 0 and redis.call('EXISTS', KEYS[at + 2]) == 1
    if (blocked or depth > 0) and (limits or max_per_second) then
        local free = free_starts(load_queue_limits(KEYS[at + 1]).limiters, math.max(depth, 1))
        depth, blocked = math.min(depth, free), blocked and free > 0
    end
    reply[#reply + 1] = blocked and -1 or depth
end
return reply
