-- Read the metrics of one shard and of some of its queues.
-- Memory: no-writes.
-- KEYS: 1 outbox_due, 2 outbox_dead_letters, 3 due, 4 active, 5 outbox_blocked_shards, 6 webhook_counts,
--       7 webhook_due; then per queue: queue_counters, queue_available, queue_blocked; without 'brief' also
--       queue_dead, queue_times, queue_types.
-- ARGV: 1 'brief' or ''.
-- Returns: {now, number of outbox entries (blocked entries included), time of the next attempt (ms or -1),
--           number of outbox dead letters, time when the first job is due (ms or -1), time when the first
--           lease ends (ms or -1), {webhook deliveries by outcome in the order of OUTCOMES, pending ones}, then
--           per queue: {number of available jobs, time when the oldest of
--           them became available (ms or -1), number of dead letters, counters in the order of FIELDS,
--           times in the order of TIMES (empty if there are none), fields of queue_types}
--           With 'brief' only of a queue that is paused or has available jobs: {position of the queue (0-based),
--           time when the oldest available job became available (ms or -1), 1 if it is paused, else 0, number of
--           parked jobs}}
--@include keys now read_job make_available sample_queue
local FIELDS = {'scheduled', 'pending', 'active', 'retryable', 'completed', 'cancelled', 'discarded',
    'acked', 'enqueued', 'failed', 'retried_total', 'discarded_total', 'cancelled_total', 'expired_total', 'paused'}
local OUTCOMES = {'delivered:', 'failed:', 'dead:', 'full:'}
local outbox_due, outbox_dead_letters, due, active, blocked_shards, webhook_counts, webhook_due = unpack(KEYS, 1, 7)

local function first_score(zset)
    return tonumber(redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2] or -1)
end

-- The first job of each priority has waited longest. So this reads one job per priority, at most 201 jobs.
local function oldest_available(zset)
    local oldest, from = -1, '-inf'
    while true do
        local row = redis.call('ZRANGEBYSCORE', zset, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
        if not row[1] then return oldest end
        local times = redis.call('HMGET', job_key(row[1]), F.enqueued, F.created)
        local since = tonumber(times[1] or times[2] or -1) or -1
        if since >= 0 and (oldest < 0 or since < oldest) then oldest = since end
        from = string.format('%.0f', (math.floor(row[2] / BAND) + 1) * BAND)
    end
end

-- Returns the earlier of two times; -1 stands for no time.
local function earlier(a, b)
    if a < 0 or b < 0 then return math.max(a, b) end
    return math.min(a, b)
end

local outbox_entries = redis.call('ZCARD', outbox_due)
for _, shard in ipairs(redis.call('ZRANGE', blocked_shards, 0, -1)) do
    outbox_entries = outbox_entries + redis.call('ZCARD', outbox_waiting_key(shard))
end
local webhooks = redis.call('HMGET', webhook_counts, unpack(OUTCOMES))
webhooks[5] = 0
-- The limit of 1000 subscriptions bounds the time of the script.
for _, id in ipairs(redis.call('ZRANGE', webhook_due, 0, 999)) do
    webhooks[5] = webhooks[5] + redis.call('ZCARD', webhook_pending_key(id))
end
local reply = {now, outbox_entries, first_score(outbox_due), redis.call('ZCARD', outbox_dead_letters),
    first_score(due), first_score(active), webhooks}
if ARGV[1] == 'brief' then
    for i = 8, #KEYS, 3 do
        local oldest = earlier(oldest_available(KEYS[i + 1]), oldest_available(KEYS[i + 2]))
        local paused = redis.call('HGET', KEYS[i], 'paused')
        paused = paused and paused ~= '0' and 1 or 0
        local parked = redis.call('ZCARD', parked_jobs_key(queue_of(KEYS[i]), '', ''))
        if oldest >= 0 or paused == 1 then reply[#reply + 1] = {(i - 8) / 3, oldest, paused, parked} end
    end
    return reply
end
for i = 8, #KEYS, 6 do
    local counters, available, blocked, dead, times, types = unpack(KEYS, i, i + 5)
    reply[#reply + 1] = {
        redis.call('ZCARD', available) + redis.call('ZCARD', blocked),
        earlier(oldest_available(available), oldest_available(blocked)),
        redis.call('ZCARD', dead),
        redis.call('HMGET', counters, unpack(FIELDS)),
        -- Most queues of a large cluster have no times, and a reply of nils would cost the reader.
        redis.call('EXISTS', times) == 1 and redis.call('HMGET', times, unpack(TIMES)) or {},
        redis.call('HGETALL', types),
    }
end
return reply
