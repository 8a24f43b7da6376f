-- Reads how many jobs a worker could fetch now from queues of one shard; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 due, then per queue: queue_available, queue_counters, queue_blocked.
-- ARGV: 1 types of the fetch, as in find_parked.lua, 2 its tenant, '' for any.
-- Returns: {1 when a job of the shard is due, else 0; then per queue its depth}
--          The depth is the number of jobs that may start, with the parked jobs of these types, 0 while the queue is
--          paused, and -1 when all its jobs wait for tokens. A fetch should call such a queue, because only a
--          fetch requests tokens.
--@include keys now read_job create_limiters count_starts queue_limits find_parked
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local reply = {first[2] and tonumber(first[2]) <= now and 1 or 0}
for i = 2, #KEYS, 3 do
    local available_key, counters_key, blocked_key = KEYS[i], KEYS[i + 1], KEYS[i + 2]
    local paused, limits, max_per_second =
        unpack(redis.call('HMGET', counters_key, 'paused', 'limits', 'max_per_second'))
    local depth = paused and 0 or redis.call('ZCARD', available_key)
    local blocked = not paused and redis.call('EXISTS', blocked_key) == 1
    if blocked then
        local queue = queue_of(counters_key)
        depth = depth + count_parked(queue, ARGV[1], ARGV[2])
        blocked = depth == 0 and waits_for_tokens(queue, blocked_key)
    end
    if (blocked or depth > 0) and (limits or max_per_second) then
        local free = free_starts(load_queue_limits(counters_key).limiters, math.max(depth, 1))
        depth, blocked = math.min(depth, free), blocked and free > 0
    end
    reply[#reply + 1] = blocked and -1 or depth
end
return reply
