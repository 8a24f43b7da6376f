-- Reads how many jobs a worker could fetch now from one partition of a queue; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 queue_available, 2 queue_counters, 3 due, 4 queue_blocked.
-- ARGV: 1 types of the fetch, as in find_parked.lua, 2 its tenant, '' for any.
-- Returns: number of available jobs and of parked jobs of these types, but at least 1 when a job of the shard is due
--          or when a job of the queue waits for a token; 0 while the queue is paused
--@include keys now find_parked
local available, counters, due, blocked = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('HEXISTS', counters, 'paused') == 1 then return 0 end
local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
local is_due = first[2] and tonumber(first[2]) <= now and 1 or 0
local depth = redis.call('ZCARD', available)
if redis.call('EXISTS', blocked) == 1 then
    local queue = queue_of(counters)
    depth = depth + count_parked(queue, ARGV[1], ARGV[2])
    if depth == 0 and waits_for_tokens(queue, blocked) then depth = 1 end
end
return math.max(depth, is_due)
