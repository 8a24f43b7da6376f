-- Commands over long lists. Lua's stack holds 8000 values, so `unpack` of a longer list fails. A script
-- that fails after its first write leaves half of its changes behind. A slice has an even length, so
-- pairs (score and member, name and value) stay together.
local SLICE = 4000
local function call_in_slices(command, key, list)
    for from = 1, #list, SLICE do
        redis.call(command, key, unpack(list, from, math.min(from + SLICE - 1, #list)))
    end
end

-- Adds to a counter. A value that is not a number, or that would overflow, is replaced. `HINCRBY` would
-- otherwise fail in every script that counts, after its first writes.
local function increment(key, field, by, base)
    local value = redis.pcall('HINCRBY', key, field, by)
    if type(value) == 'number' then return value end
    value = (base or 0) + by
    redis.call('HSET', key, field, string.format('%.0f', value))
    return value
end
