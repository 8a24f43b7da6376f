-- Limiters: one object for each limit, with these functions:
--   free()          returns how many more jobs may start now.
--   count(n)        counts `n` starts, and returns the name and value of the hash field to write.
--   uncount(started_at) takes back one start that it counted at this ms. Changes nothing where it cannot do
--     that exactly.
--   saved()         returns the name and value of the hash field to write.
--   opens_at()      returns the time in ms from which on a start is allowed, nil if a job must end first.
-- `timed` is true if the limiter counts starts over time. `period` is in ms.
-- rate_limiter.lua has the limiter of a rate.
-- A throttle keeps the time in ms of the next start. If its starts are less than BURST_MS apart, all starts of
-- the next BURST_MS are allowed now. So a worker that fetches every BURST_MS reaches the rate of the throttle.
--@include rate_limiter
local BURST_MS = 100

local function throttle_limiter(limit, period, text, field)
    local gap = period / limit
    local burst = math.max(0, BURST_MS - gap)
    -- The next start is at most burst + gap away, even when the server's clock was set back.
    local at = math.min(is_number(text) and tonumber(text) or 0, now + burst + gap)
    local limiter = {name = 'throttle', limit = limit, timed = true}
    -- 1e-9 makes up for the rounding of the division.
    function limiter.free() return math.floor((now + burst - math.max(at, now)) / gap + 1e-9) + 1 end
    function limiter.count(n)
        at = math.max(at, now) + n * gap
        return limiter.saved()
    end
    function limiter.saved() return field, string.format('%.3f', at) end
    -- Exact only if this start was the last one, and did not follow others in a burst. 0.01 makes up for the
    -- rounding of `at`.
    function limiter.uncount(started_at)
        if math.abs(at - gap - started_at) < 0.01 then at = started_at end
    end
    function limiter.opens_at() return math.ceil(at - burst) end
    return limiter
end

local function concurrency_limiter(limit, active)
    local limiter = {name = 'concurrency', limit = limit}
    function limiter.free() return limit - active end
    function limiter.count(n) active = active + n end
    function limiter.uncount() end -- a job that has left its worker does not count any more
    function limiter.saved() end
    function limiter.opens_at() end
    return limiter
end
