-- Gauges: one limit each, how many more may start under it, what starts change, and when time makes
-- room. Starts of a window are a log 'ms:count ms:count ...': those of a 64th of the period share
-- an entry under the latest of their times, so any window of the period holds at most its limit and
-- the log is never longer than 65. Throttles keep the ms of the next start; those of less than
-- EVEN_MS between two starts let so many start at once that they keep their pace at a fetch
-- now and then.
local EVEN_MS = 100

local function window(limit, period, text, field)
    local log, sum = {}, 0
    for at, n in string.gmatch(text or '', '(%d+):(%d+)') do
        at = math.min(tonumber(at), now) -- the server's clock may have been set back
        if at + period > now then
            log[#log + 1] = {at, tonumber(n)}
            sum = sum + n
        end
    end
    local gauge = {name = 'rate', limit = limit, timed = true}
    function gauge.room() return limit - sum end
    function gauge.start(n)
        local last, slice = log[#log], period / 64
        if last and math.floor(last[1] / slice) == math.floor(now / slice) then
            last[1], last[2] = now, last[2] + n
        else
            log[#log + 1] = {now, n}
        end
        sum = sum + n
        local entries = {}
        for i, entry in ipairs(log) do entries[i] = string.format('%.0f:%.0f', entry[1], entry[2]) end
        return field, table.concat(entries, ' ')
    end
    function gauge.opens()
        local left = sum
        for _, entry in ipairs(log) do
            left = left - entry[2]
            if left < limit then return entry[1] + period end
        end
    end
    return gauge
end

local function throttle(limit, period, text, field)
    local gap = period / limit
    local burst = math.max(0, EVEN_MS - gap)
    -- The next start is never further away than one gap, however the server's clock was set.
    local at = math.min(is_number(text) and tonumber(text) or 0, now + burst + gap)
    local gauge = {name = 'throttle', limit = limit, timed = true}
    function gauge.room() return math.floor((now + burst - math.max(at, now)) / gap + 1e-9) + 1 end
    function gauge.start(n)
        at = math.max(at, now) + n * gap
        return field, string.format('%.3f', at)
    end
    function gauge.opens() return math.ceil(at - burst) end
    return gauge
end

local function concurrency(limit, used)
    local gauge = {name = 'concurrency', limit = limit}
    function gauge.room() return limit - used end
    function gauge.start(n) used = used + n end
    function gauge.opens() end
    return gauge
end
