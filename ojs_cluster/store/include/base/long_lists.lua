-- Commands over long lists. Lua's stack holds 8000 values, so `unpack` of a longer list fails. A script
-- that fails after its first write would leave half of its changes behind. So a long list is sent in slices.
-- Their length is even, so that a pair (score and member, or name and value) is not divided.
local SLICE = 4000 -- values
local function call_in_slices(command, key, list)
    for from = 1, #list, SLICE do
        redis.call(command, key, unpack(list, from, math.min(from + SLICE - 1, #list)))
    end
end

-- Adds `by` to a counter and returns the new value. If the value is not a number, or would overflow, `HINCRBY`
-- fails. The counter is then set to `base` + `by`, because the script has already written and must not fail.
local function increment(key, field, by, base)
    local value = redis.pcall('HINCRBY', key, field, by)
    if type(value) == 'number' then return value end
    value = (base or 0) + by
    redis.call('HSET', key, field, string.format('%.0f', value))
    return value
end
