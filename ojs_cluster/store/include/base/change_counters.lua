-- Counters of queues. Changes are kept back to the end of the script, where `flush_counters` reads and
-- writes each queue's hash once: an ack changes five of its fields, and a command for each would be
-- paid again by every replica and by the AOF. A script that counts ends with `flush_counters()`.
--
-- The sums `acked`, `failed` (attempts), `ran` and `waited` (ms of completed jobs) only grow. With the
-- first change in a minute they are noted, as they were, in a ring of 60 slots of one field each; so
-- the last hour is what they have grown by since the oldest note of it.
--@include long_lists
local changes = {}
local function count(queue, field, by)
    local of = changes[queue]
    if not of then
        of = {}
        changes[queue] = of
    end
    of[field] = (of[field] or 0) + by
end

-- By how much a job's sums grow. `what`: 'c' it was completed, 'f' an attempt failed.
local function attempt_totals(job, what)
    if what == 'f' then return {acked = 0, failed = 1, ran = 0, waited = 0} end
    local since = job[F.enqueued] or job[F.created]
    return {acked = 1, failed = 0, ran = now - job[F.started],
        waited = math.max(0, job[F.started] - since)}
end

local function count_attempt(job, what)
    for field, by in pairs(attempt_totals(job, what)) do count(job[F.queue], field, by) end
end

local function this_minute() return string.format('%.0f', math.floor(now / 60000)) end

local function record_minute(queue, had)
    local minute = this_minute()
    if had.minute == minute then return end
    redis.call('HSET', queue_minutes_key(queue), minute % 60, table.concat({minute, had.acked or 0,
        had.failed or 0, had.ran or 0, had.waited or 0}, ','))
    return minute
end

-- Where all were active that may be, there is room now (see gate.lua).
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

-- One counter that grows, as of a job that is enqueued or fetched, needs no look.
local function flush_counters()
    for queue, of in pairs(changes) do
        local field, by = next(of)
        if by > 0 and next(of, field) == nil then increment(queue_counters_key(queue), field, by)
        else flush_queue_counters(queue, of) end
    end
end
