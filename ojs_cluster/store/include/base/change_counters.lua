-- Counters of queues. A script collects changes with `count` and ends with `flush_counters()`, which reads
-- and writes each queue's hash once. An ack changes five fields. One command for each field would also be
-- written to every replica and to the AOF.
--
-- Some fields only grow: `enqueued`, `acked` (completed jobs), `failed` (failed attempts), `retried_total`,
-- `discarded_total`, `cancelled_total`, `expired_total`, `run_ms` and `wait_ms` (how long the completed jobs
-- have run and waited, in ms). sample_queue.lua reads them for the history of statistics. The first attempt that
-- ends in a minute stores four of them in queue_minutes, which has one field for each of 60 minutes. The sums of the last
-- hour are the growth since the oldest of these records.
--@include long_lists wake_queue count_changes count_for_tenants
-- Returns what an attempt adds to the totals. `outcome`: 'completed' or 'failed'.
local function attempt_totals(job, outcome)
    if outcome == 'failed' then return {failed = 1} end
    local since = job[F.enqueued] or job[F.created]
    return {acked = 1, run_ms = now - job[F.started],
        wait_ms = math.max(0, job[F.started] - since)}
end

local function count_attempt(job, outcome)
    for field, by in pairs(attempt_totals(job, outcome)) do count_job(job, field, by) end
end

local function this_minute() return string.format('%.0f', math.floor(now / 60000)) end
-- Stores the totals of the queue, unless this minute has a record. `old`: the fields before the change.
-- Returns the minute that was recorded, or nil.
local function record_minute(queue, old)
    local minute = this_minute()
    if old.minute == minute then return end
    redis.call('HSET', queue_minutes_key(queue), minute % 60, table.concat({minute, old.acked or 0,
        old.failed or 0, old.run_ms or 0, old.wait_ms or 0}, ','))
    return minute
end

-- Wakes waiting fetches when the number of active jobs falls below the queue's concurrency limit, which is
-- the first of its packed limits (see queue_limits.lua). `change`: what is added to `active_before`.
local function wake_on_free_slot(queue, limits, active_before, change)
    local max_active = limits and tonumber(string.match(limits, '^[^,]+'))
    if max_active and active_before >= max_active and active_before + change < max_active then
        wake_queue(queue)
    end
end

local function flush_queue_counters(queue, changes)
    local key, names, old, write = queue_counters_key(queue), {'limits', 'minute'}, {}, {}
    for name in pairs(changes) do names[#names + 1] = name end
    if changes.failed then -- record_minute needs the totals that a failed attempt leaves
        for _, name in ipairs({'acked', 'run_ms', 'wait_ms'}) do names[#names + 1] = name end
    end
    for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do old[names[i]] = value end
    for name, by in pairs(changes) do
        write[#write + 1] = name
        write[#write + 1] = (tonumber(old[name]) or 0) + by
    end
    local minute = (changes.acked or changes.failed) and record_minute(queue, old)
    if minute then
        write[#write + 1] = 'minute'
        write[#write + 1] = minute
    end
    redis.call('HSET', key, unpack(write))
    wake_on_free_slot(queue, old.limits, tonumber(old.active) or 0, changes.active or 0)
end

-- Writes the collected changes. Where only one counter of a queue changes, and grows, HINCRBY needs no read.
local function flush_counters()
    for queue, changes in pairs(counter_changes) do
        local field, by = next(changes)
        if by > 0 and next(changes, field) == nil then increment(queue_counters_key(queue), field, by)
        else flush_queue_counters(queue, changes) end
    end
    if tenant_changes then flush_tenant_counters() end
end
