-- How many jobs may start now under some limits, and what their starts change: a meter is a list of
-- gauges (gauges.lua), all of which must have room.

-- Adds the gauges that packed limits ask for (see core/rate_limit.py). What is damaged limits nothing.
local function add_limits(meter, packed, used, starts, next_start)
    local most, rate, paced = string.match(packed or '-,-,-', '^([^,]+),([^,]+),([^,]+)$')
    if not most then return end
    if is_number(most) then table.insert(meter, concurrency(tonumber(most), used)) end
    local n, ms = string.match(rate, '(%d+):(%d+)')
    if n then table.insert(meter, window(tonumber(n), tonumber(ms), starts, 'starts')) end
    n, ms = string.match(paced, '(%d+):(%d+)')
    if n then table.insert(meter, throttle(tonumber(n), tonumber(ms), next_start, 'next_start')) end
end

-- How many may start now, at most `most`, when `coming` may start at any moment.
local function room(meter, most, coming)
    for _, gauge in ipairs(meter) do
        most = math.min(most, gauge.room() - (gauge.timed and coming or 0))
    end
    return math.max(most, 0)
end

-- `n` start now. Returns the names and values of the fields to be written.
local function start(meter, n)
    local fields = {}
    for _, gauge in ipairs(meter) do
        local name, value = gauge.start(n)
        if name then table.insert(fields, name) table.insert(fields, value) end
    end
    return fields
end

-- The ms at which time alone makes room, or nil where there is room or something else must happen.
local function opens(meter)
    local at
    for _, gauge in ipairs(meter) do
        local open_at = gauge.room() <= 0 and gauge.opens()
        if open_at then at = math.max(at or 0, open_at) end
    end
    return at
end
