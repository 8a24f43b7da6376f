-- The limits of a queue: whether it is paused, and how many of its jobs may start now. `limits` are the
-- operator's. `max_per_second` is what its jobs declared last. Both hold.
-- A declaration ends an hour after a job that declares it was last enqueued or started (`declared_at`), but not
-- before the job that declared it last (`declared_by`) has ended. An operator may also end it, for all jobs
-- created before `undeclared_at`.
local DECLARED_MS = 3600 * 1000

local function has_ended(id)
    local state = id and redis.call('HGET', job_key(id), F.state)
    return not state or state == 'completed' or state == 'cancelled' or state == 'discarded'
end

local function load_queue_limits(key)
    local found = redis.call('HMGET', key, 'paused', 'active', 'limits', 'starts', 'next_start',
        'max_per_second', 'declared_starts', 'declared_at', 'declared_by', 'undeclared_at')
    local limiters = {}
    local function number(i) return is_number(found[i]) and tonumber(found[i]) or 0 end
    -- A damaged declaration ends now, because it must not block every fetch of its queue.
    local expired = found[6] and (number(6) < 1
        or now - number(8) >= DECLARED_MS and has_ended(found[9]))
    if expired then found[6] = false end
    if found[3] then
        add_limiters(limiters, found[3], number(2), found[4], found[5])
    end
    if found[6] then
        table.insert(limiters, rate_limiter(tonumber(found[6]), 1000, found[7], 'declared_starts'))
    end
    return {paused = found[1], limiters = limiters, expired = expired, max_per_second = found[6],
        undeclared_at = number(10)}
end

-- Returns the fields to write when a job starts that declares a limit.
local function declaration_fields(limits)
    local job = limits.declaring_job
    if not job then return {} end
    if limits.max_per_second then return {'declared_at', now} end
    if tonumber(job[F.created]) <= limits.undeclared_at then return {} end
    return {'max_per_second', job[F.max_per_second], 'declared_at', now, 'declared_by', job.id}
end

-- Counts `n` starts of the queue. If no more may start, limits_due.lua wakes its fetches when time has made
-- room again. release_from_worker makes room when a job ends.
local function count_queue_starts(key, queue, limits, n)
    if limits.expired then
        redis.call('HDEL', key, 'max_per_second', 'declared_starts', 'declared_at', 'declared_by')
    end
    if n == 0 or #limits.limiters == 0 and not limits.declaring_job then return end
    local fields = record_starts(limits.limiters, n)
    for _, value in ipairs(declaration_fields(limits)) do fields[#fields + 1] = value end
    if #fields > 0 then redis.call('HSET', key, unpack(fields)) end
    local at = opens_at(limits.limiters)
    if at then set_deadline(EXHAUSTED_QUEUES, queue, at) end
end
