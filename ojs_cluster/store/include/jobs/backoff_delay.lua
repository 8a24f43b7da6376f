-- Delay before the next attempt, in ms. Same formula as core/jobs/retry.py; a test compares them.
-- packed: 'strategy:initial_ms:coefficient:max_ms:jitter' or nil for the defaults; what cannot be read
-- is taken for them, too, since nothing may fail where this is called.
-- chance: a number in [0, 1) from the caller, since scripts draw no randomness of their own.
local function backoff(packed, failed_attempt, chance)
    local strategy, initial, coefficient, cap, jitter = 'exponential', 1000, 2, 300000, '1'
    local named, first, factor, most, varies =
        string.match(packed or '', '^(%a+):(%d+):([%d.]+):(%d+):([01])$')
    first, factor, most = tonumber(first), tonumber(factor), tonumber(most)
    if first and first > 0 and factor and most and most < 1e12 then
        strategy, initial, coefficient, cap, jitter = named, first, factor, most, varies
    end
    local delay = initial
    if strategy == 'exponential' then delay = initial * coefficient ^ (failed_attempt - 1)
    elseif strategy == 'linear' then delay = initial * failed_attempt
    elseif strategy == 'polynomial' then delay = initial * failed_attempt ^ coefficient
    end
    delay = math.min(delay, cap)
    if jitter == '1' then delay = math.min(delay * (0.5 + chance), cap) end
    return math.floor(delay + 0.5)
end
