-- How many jobs may start now under a list of limiters (create_limiters.lua), all of which must have room.

-- Adds the limiters of packed limits (see core/rate_limit.py). Damaged limits add none.
local function add_limiters(limiters, packed, active, starts, next_start)
    local most, rate, throttle = string.match(packed or '-,-,-', '^([^,]+),([^,]+),([^,]+)$')
    if not most then return end
    if is_number(most) then table.insert(limiters, concurrency_limiter(tonumber(most), active)) end
    local n, ms = string.match(rate, '(%d+):(%d+)')
    if n then table.insert(limiters, rate_limiter(tonumber(n), tonumber(ms), starts, 'starts')) end
    n, ms = string.match(throttle, '(%d+):(%d+)')
    if n then table.insert(limiters, throttle_limiter(tonumber(n), tonumber(ms), next_start, 'next_start')) end
end

-- Returns how many jobs may start now, at most `most`. `granted` jobs may start at any time.
local function free_starts(limiters, most, granted)
    for _, limiter in ipairs(limiters) do
        most = math.min(most, limiter.free() - (limiter.timed and granted or 0))
    end
    return math.max(most, 0)
end

-- Counts `n` starts. Returns the names and values of the fields to write.
local function record_starts(limiters, n)
    local fields = {}
    for _, limiter in ipairs(limiters) do
        local name, value = limiter.record_starts(n)
        if name then table.insert(fields, name) table.insert(fields, value) end
    end
    return fields
end

-- Returns the ms at which time alone frees a start. Nil when one is free, or when a job must end first.
local function opens_at(limiters)
    local at
    for _, limiter in ipairs(limiters) do
        local limiter_opens_at = limiter.free() <= 0 and limiter.opens_at()
        if limiter_opens_at then at = math.max(at or 0, limiter_opens_at) end
    end
    return at
end
