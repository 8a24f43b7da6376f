-- The limiter of a rate (create_limiters.lua tells its functions).
-- It keeps a log 'ms:count ms:count ...'. Starts within a 64th of the period share an entry under the time
-- of the latest one. So no window of one period holds more starts than the limit, and the log has at most 65
-- entries.
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
    function limiter.count(n)
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
    function limiter.uncount(started_at)
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
