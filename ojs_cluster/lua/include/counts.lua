-- Counters of queues. Changes are kept back to the end of the script, where `settle_counts` reads and
-- writes each queue's hash once: an ack changes five of its fields, and a command for each would be
-- paid again by every replica and by the AOF. A script that counts ends with `settle_counts()`.
--
-- The sums `acked`, `failed` (attempts), `ran` and `waited` (ms of completed jobs) only grow. With the
-- first change in a minute they are noted, as they were, in a ring of 60 slots of one field each; so
-- the last hour is what they have grown by since the oldest note of it.
local changes = {}
local function count(queue, field, by)
    local of = changes[queue]
    if not of then
        of = {}
        changes[queue] = of
    end
    of[field] = (of[field] or 0) + by
end

-- `what`: 'c' a job was completed, 'f' an attempt failed.
local function tally(job, what)
    local queue = job[F.queue]
    local done = what == 'c'
    count(queue, 'acked', done and 1 or 0)
    count(queue, 'failed', done and 0 or 1)
    count(queue, 'ran', done and now - job[F.started] or 0)
    count(queue, 'waited', done
        and math.max(0, job[F.started] - (job[F.enqueued] or job[F.created])) or 0)
end

local function note_minute(queue, had)
    local minute = string.format('%.0f', math.floor(now / 60000))
    if had.minute == minute then return end
    redis.call('HSET', minutes_key(queue), minute % 60, table.concat({minute, had.acked or 0,
        had.failed or 0, had.ran or 0, had.waited or 0}, ','))
    return minute
end

local function settle_queue(queue, of)
    local key, names, had, write = queue_key(queue), {'limits', 'minute'}, {}, {}
    for name in pairs(of) do names[#names + 1] = name end
    for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do had[names[i]] = value end
    for name, by in pairs(of) do
        write[#write + 1] = name
        write[#write + 1] = (had[name] or 0) + by
    end
    local minute = of.acked and note_minute(queue, had)
    if minute then
        write[#write + 1] = 'minute'
        write[#write + 1] = minute
    end
    redis.call('HSET', key, unpack(write))
    -- Where all that may be active were, there is room now (see gate.lua).
    local most = had.limits and tonumber(string.match(had.limits, '^[^,]+'))
    local before = tonumber(had.active or 0)
    if most and before >= most and before + (of.active or 0) < most then
        redis.call('SPUBLISH', WAKE, queue)
    end
end

-- One counter that grows, as of a job that is enqueued or fetched, needs no look.
local function settle_counts()
    for queue, of in pairs(changes) do
        local field, by = next(of)
        if by > 0 and next(of, field) == nil then redis.call('HINCRBY', queue_key(queue), field, by)
        else settle_queue(queue, of) end
    end
end
