-- The limits of a queue: whether it is paused, and how many of its jobs may start now. `limits` are those of
-- the operator. `max_per_second` is the limit that the queue's jobs declared last. A start must satisfy both.
-- A declared limit ends when two conditions hold: no job with a max_per_second was enqueued or started for
-- DECLARED_MS (`declared_at`), and the job that declared the limit (`declared_by`) has ended. An operator can
-- remove a declared limit; jobs created before that time (`undeclared_at`) do not declare it again.
local DECLARED_MS = 3600 * 1000

local function has_ended(id)
    local state = id and redis.call('HGET', job_key(id), F.state)
    return not state or state == 'completed' or state == 'cancelled' or state == 'discarded'
end

local function number_or_0(value) return is_number(value) and tonumber(value) or 0 end

-- Reads the limits of a queue. `key`: its queue_counters.
local function load_queue_limits(key)
    local paused, active, limits, starts, next_start, max_per_second, declared_starts, declared_at, declared_by,
        undeclared_at = unpack(redis.call('HMGET', key, 'paused', 'active', 'limits', 'starts', 'next_start',
        'max_per_second', 'declared_starts', 'declared_at', 'declared_by', 'undeclared_at'))
    local limiters = {}
    -- A damaged limit ends now, because it must not block every fetch of its queue.
    local expired = max_per_second and (number_or_0(max_per_second) < 1
        or now - number_or_0(declared_at) >= DECLARED_MS and has_ended(declared_by))
    if expired then max_per_second = false end
    if limits then add_limiters(limiters, limits, number_or_0(active), starts, next_start) end
    if max_per_second then
        table.insert(limiters, rate_limiter(tonumber(max_per_second), 1000, declared_starts, 'declared_starts'))
    end
    return {paused = paused, limiters = limiters, expired = expired, max_per_second = max_per_second,
        undeclared_at = number_or_0(undeclared_at)}
end

-- Returns the fields to write when a job that declares a limit has started (`limits.declaring_job`).
local function declaration_fields(limits)
    local job = limits.declaring_job
    if not job then return {} end
    if limits.max_per_second then return {'declared_at', now} end
    if tonumber(job[F.created]) <= limits.undeclared_at then return {} end
    return {'max_per_second', job[F.max_per_second], 'declared_at', now, 'declared_by', job.id}
end

-- Counts `n` starts of the queue. If no more jobs may start until some time has passed, limits_due.lua wakes
-- the waiting fetches at that time. If a job must end first, flush_counters wakes them.
local function count_queue_starts(key, queue, limits, n)
    if limits.expired then
        redis.call('HDEL', key, 'max_per_second', 'declared_starts', 'declared_at', 'declared_by')
    end
    if n == 0 or #limits.limiters == 0 and not limits.declaring_job then return end
    local fields = count_starts(limits.limiters, n)
    for _, value in ipairs(declaration_fields(limits)) do fields[#fields + 1] = value end
    if #fields > 0 then redis.call('HSET', key, unpack(fields)) end
    local at = all_open_at(limits.limiters)
    if at then set_deadline(EXHAUSTED_QUEUES, queue, at) end
end
