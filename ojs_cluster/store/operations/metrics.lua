-- The numbers of one shard and of some of its queues, for monitoring; changes nothing.
-- Memory: no-writes.
-- KEYS: 1..5 the shard's out, parked, due, act, away; then per queue c:, q:, d: and h:.
-- Returns: {now, entries in the outbox (those that wait for another shard too), first try due (ms or -1), entries parked,
--           first due job (ms or -1), first lease to end (ms or -1),
--           per queue: available, since when the oldest of them is (ms or -1), dead letters,
--           its counters in the order of FIELDS}
--@include keys now read_job make_available
local FIELDS = {'scheduled', 'pending', 'active', 'retryable', 'completed', 'cancelled', 'discarded',
    'acked', 'came', 'failed', 'ran', 'waited', 'paused'}

local function first(zset)
    return tonumber(redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2] or -1)
end

-- Within a priority the first in line has waited longest, so one look for each of the 201 at most.
local function oldest(zset)
    local at, from = -1, '-inf'
    while true do
        local row = redis.call('ZRANGEBYSCORE', zset, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
        if not row[1] then return at end
        local times = redis.call('HMGET', job_key(row[1]), F.enqueued, F.created)
        local since = tonumber(times[1] or times[2] or -1) or -1
        if since >= 0 and (at < 0 or since < at) then at = since end
        from = string.format('%.0f', (math.floor(row[2] / BAND) + 1) * BAND)
    end
end

local owed = redis.call('ZCARD', KEYS[1])
for _, shard in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do
    owed = owed + redis.call('ZCARD', outbox_waiting_key(shard))
end
local reply = {now, owed, first(KEYS[1]), redis.call('ZCARD', KEYS[2]),
    first(KEYS[3]), first(KEYS[4])}
for i = 6, #KEYS, 4 do
    local ready, held = oldest(KEYS[i + 1]), oldest(KEYS[i + 3])
    reply[#reply + 1] = redis.call('ZCARD', KEYS[i + 1]) + redis.call('ZCARD', KEYS[i + 3])
    reply[#reply + 1] = math.min(ready, held) < 0 and math.max(ready, held) or math.min(ready, held)
    reply[#reply + 1] = redis.call('ZCARD', KEYS[i + 2])
    reply[#reply + 1] = redis.call('HMGET', KEYS[i], unpack(FIELDS))
end
return reply
