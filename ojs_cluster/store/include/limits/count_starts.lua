-- Counts starts under a list of limiters, and how many more jobs may start now. A job may start when every limiter of
-- the list allows one more start.
--@include create_limiters

-- Adds the limiters of packed limits '<concurrency>,<rate>,<throttle>' (see core/rate_limit.py). Damaged limits
-- add none.
-- `active`: number of active jobs. `starts`, `next_start`: what the limiters have recorded.
local function add_limiters(limiters, packed, active, starts, next_start)
    local concurrency, rate, throttle = string.match(packed or '-,-,-', '^([^,]+),([^,]+),([^,]+)$')
    if not concurrency then return end
    if is_number(concurrency) then
        table.insert(limiters, concurrency_limiter(tonumber(concurrency), active))
    end
    local n, ms = string.match(rate, '(%d+):(%d+)')
    if n then table.insert(limiters, rate_limiter(tonumber(n), tonumber(ms), starts, 'starts')) end
    n, ms = string.match(throttle, '(%d+):(%d+)')
    if n then table.insert(limiters, throttle_limiter(tonumber(n), tonumber(ms), next_start, 'next_start')) end
end

-- Returns how many more jobs may start now, at most `wanted`.
-- `uncounted`: number of jobs that have a token and may start at any time; nil for a queue, which has no tokens. A
-- concurrency limit already counts them as active.
local function free_starts(limiters, wanted, uncounted)
    local free = wanted
    for _, limiter in ipairs(limiters) do
        free = math.min(free, limiter.free() - (limiter.timed and uncounted or 0))
    end
    return math.max(free, 0)
end

-- Counts `n` starts. Returns the hash fields to write, as a list of names and values.
local function count_starts(limiters, n)
    local fields = {}
    for _, limiter in ipairs(limiters) do
        local name, value = limiter.count(n)
        if name then table.insert(fields, name) table.insert(fields, value) end
    end
    return fields
end

-- Takes back starts that were counted at the times `started`, in ms. `limited_at`: ms of the last change of the
-- limits, which may not have counted earlier starts. Returns the hash fields to write.
local function uncount_starts(limiters, started, limited_at)
    local fields = {}
    for _, limiter in ipairs(limiters) do
        for _, at in ipairs(started) do if at > limited_at then limiter.uncount(at) end end
        local name, value = limiter.saved()
        if name then table.insert(fields, name) table.insert(fields, value) end
    end
    return fields
end

-- Returns the ms from which on the limits over time allow a start, or nil if they do now. Concurrency limits are left
-- out: they open when a job ends.
local function all_open_at(limiters)
    local at
    for _, limiter in ipairs(limiters) do
        local limiter_opens_at = limiter.free() <= 0 and limiter.opens_at()
        if limiter_opens_at then at = math.max(at or 0, limiter_opens_at) end
    end
    return at
end
