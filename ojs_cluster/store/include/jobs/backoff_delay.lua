-- Returns the delay before the next attempt in ms (spec: ojs-retry section 5). tests/model/retries.py has the
-- same formula, and a test compares the two.
-- packed_policy: 'strategy:initial_ms:coefficient:max_ms:jitter', or nil for the defaults. A malformed policy
-- also means the defaults: callers have already written, so this function must not fail.
-- failed_attempt: number of the attempt that has failed, from 1 on.
-- random_number: in [0, 1), from the caller, because a script must be deterministic.
local function backoff(packed_policy, failed_attempt, random_number)
    local strategy, initial, coefficient, cap, jitter = 'exponential', 1000, 2, 300000, '1'
    local strategy_set, initial_set, coefficient_set, cap_set, jitter_set =
        string.match(packed_policy or '', '^(%a+):(%d+):([%d.]+):(%d+):([01])$')
    initial_set, coefficient_set, cap_set = tonumber(initial_set), tonumber(coefficient_set), tonumber(cap_set)
    if initial_set and initial_set > 0 and coefficient_set and cap_set and cap_set < 1e12 then
        strategy, initial, coefficient, cap, jitter =
            strategy_set, initial_set, coefficient_set, cap_set, jitter_set
    end
    local delay = initial
    if strategy == 'exponential' then delay = initial * coefficient ^ (failed_attempt - 1)
    elseif strategy == 'linear' then delay = initial * failed_attempt
    elseif strategy == 'polynomial' then delay = initial * failed_attempt ^ coefficient
    end
    delay = math.min(delay, cap)
    if jitter == '1' then delay = math.min(delay * (0.5 + random_number), cap) end
    return math.floor(delay + 0.5)
end
