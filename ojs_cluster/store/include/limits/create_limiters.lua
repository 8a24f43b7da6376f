-- Limiters: one object for each limit, with these functions:
--   free()          returns how many more jobs may start now.
--   count_starts(n) counts `n` starts, and returns the name and value of the hash field to write.
--   uncount_start(started_at) takes back one start that it counted at this ms. Changes nothing where it cannot do
--     that exactly.
--   saved()         returns the name and value of the hash field to write.
--   opens_at()      returns the time in ms from which on a start is allowed, nil if a job must end first.
-- `timed` is true if the limiter counts starts over time. `period` is in ms.
-- A rate keeps a log 'ms:count ms:count ...'. Starts within a 64th of the period share an entry under the time
-- of the latest one. So no window of one period holds more starts than the limit, and the log has at most 65
-- entries.
-- A throttle keeps the time in ms of the next start. If its starts are less than BURST_MS apart, all starts of
-- the next BURST_MS are allowed now. So a worker that fetches every BURST_MS reaches the rate of the throttle.
local BURST_MS = 100

local function rate_limiter(limit, period, text, field)
    local log, sum = {}, 0
    for at, n in string.gmatch(text or '', '(%d+):(%d+)') do
        at = math.min(tonumber(at), now) -- the server's clock may have been set back
        if at + period > now then
            log[#log + 1] = {at, tonumber(n)}
            sum = sum + n
        end
    end
    local limiter = {name = 'rate', limit = limit, timed = true}
    function limiter.free() return limit - sum end
    local slice_ms = period / 64
    function limiter.saved()
        local entries = {}
        for i, entry in ipairs(log) do entries[i] = string.format('%.0f:%.0f', entry[1], entry[2]) end
        return field, table.concat(entries, ' ')
    end
    function limiter.count_starts(n)
        local last = log[#log]
        if last and math.floor(last[1] / slice_ms) == math.floor(now / slice_ms) then
            last[1], last[2] = now, last[2] + n
        else
            log[#log + 1] = {now, n}
        end
        sum = sum + n
        return limiter.saved()
    end
    -- The first entry from that time on has the start, unless the entry has left the window. The entry keeps the
    -- time of its latest start, even if that is the one taken back: no window holds too many starts.
    function limiter.uncount_start(started_at)
        for i, entry in ipairs(log) do
            if entry[1] >= started_at then
                if math.floor(entry[1] / slice_ms) ~= math.floor(started_at / slice_ms) then return end
                entry[2] = entry[2] - 1
                if entry[2] < 1 then table.remove(log, i) end
                return
            end
        end
    end
    function limiter.opens_at()
        local counted = sum
        for _, entry in ipairs(log) do
            counted = counted - entry[2]
            if counted < limit then return entry[1] + period end
        end
    end
    return limiter
end

local function throttle_limiter(limit, period, text, field)
    local gap = period / limit
    local burst = math.max(0, BURST_MS - gap)
    -- The next start is at most burst + gap away, even when the server's clock was set back.
    local at = math.min(is_number(text) and tonumber(text) or 0, now + burst + gap)
    local limiter = {name = 'throttle', limit = limit, timed = true}
    -- 1e-9 makes up for the rounding of the division.
    function limiter.free() return math.floor((now + burst - math.max(at, now)) / gap + 1e-9) + 1 end
    function limiter.count_starts(n)
        at = math.max(at, now) + n * gap
        return limiter.saved()
    end
    function limiter.saved() return field, string.format('%.3f', at) end
    -- Exact only if this start was the last one, and did not follow others in a burst. 0.01 makes up for the
    -- rounding of `at`.
    function limiter.uncount_start(started_at)
        if math.abs(at - gap - started_at) < 0.01 then at = started_at end
    end
    function limiter.opens_at() return math.ceil(at - burst) end
    return limiter
end

local function concurrency_limiter(limit, active)
    local limiter = {name = 'concurrency', limit = limit}
    function limiter.free() return limit - active end
    function limiter.count_starts(n) active = active + n end
    function limiter.uncount_start() end -- a job that has left its worker does not count any more
    function limiter.saved() end
    function limiter.opens_at() end
    return limiter
end
