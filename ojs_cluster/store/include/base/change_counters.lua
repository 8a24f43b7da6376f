-- Counters of queues. A script collects changes with `count` and ends with `flush_counters()`, which reads
-- and writes each queue's hash once. An ack changes five fields; a command for each would cost every
-- replica and the AOF too.
--
-- The totals `acked`, `failed` (attempts), `ran` and `waited` (ms of completed jobs) only grow. The first
-- change in a minute records the previous totals in a ring of 60 fields. The last hour's sums are the
-- growth since the oldest record.
--@include long_lists
local counter_changes = {}
local function count(queue, field, by)
    local of = counter_changes[queue]
    if not of then
        of = {}
        counter_changes[queue] = of
    end
    of[field] = (of[field] or 0) + by
end

-- Returns the growth of the totals. `outcome`: 'completed' or 'failed'.
local function attempt_totals(job, outcome)
    if outcome == 'failed' then return {acked = 0, failed = 1, ran = 0, waited = 0} end
    local since = job[F.enqueued] or job[F.created]
    return {acked = 1, failed = 0, ran = now - job[F.started],
        waited = math.max(0, job[F.started] - since)}
end

local function count_attempt(job, outcome)
    for field, by in pairs(attempt_totals(job, outcome)) do count(job[F.queue], field, by) end
end

local function this_minute() return string.format('%.0f', math.floor(now / 60000)) end

local function record_minute(queue, had)
    local minute = this_minute()
    if had.minute == minute then return end
    redis.call('HSET', queue_minutes_key(queue), minute % 60, table.concat({minute, had.acked or 0,
        had.failed or 0, had.ran or 0, had.waited or 0}, ','))
    return minute
end

-- Wakes waiters when the number of active jobs falls below the concurrency limit (see queue_limits.lua).
local function wake_on_free_slot(queue, limits, before, by)
    local most = limits and tonumber(string.match(limits, '^[^,]+'))
    if most and before >= most and before + by < most then redis.call('SPUBLISH', WAKE_CHANNEL, queue) end
end

local function flush_queue_counters(queue, of)
    local key, names, had, write = queue_counters_key(queue), {'limits', 'minute'}, {}, {}
    for name in pairs(of) do names[#names + 1] = name end
    for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do had[names[i]] = value end
    for name, by in pairs(of) do
        write[#write + 1] = name
        write[#write + 1] = (tonumber(had[name]) or 0) + by
    end
    local minute = of.acked and record_minute(queue, had)
    if minute then
        write[#write + 1] = 'minute'
        write[#write + 1] = minute
    end
    redis.call('HSET', key, unpack(write))
    wake_on_free_slot(queue, had.limits, tonumber(had.active) or 0, of.active or 0)
end

-- A single counter that grows, as for an enqueue or a fetch, needs no read.
local function flush_counters()
    for queue, of in pairs(counter_changes) do
        local field, by = next(of)
        if by > 0 and next(of, field) == nil then increment(queue_counters_key(queue), field, by)
        else flush_queue_counters(queue, of) end
    end
end
