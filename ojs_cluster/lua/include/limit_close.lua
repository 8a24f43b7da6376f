-- When a rate limit key has room again, and the end of every script over one.

-- The ms at which time alone lets more start, or nil. `all`: when those who have tokens have started.
local function limit_opens(all)
    local meter, hold = limit_meter(), tonumber(limit.hold or 0)
    if all and coming > 0 then start(meter, coming) end
    local at = opens(meter)
    if hold > now then at = math.max(at or 0, hold) end
    if override_holds() and limit.over_until ~= '' then
        at = math.min(at or math.huge, tonumber(limit.over_until))
    end
    return at
end

-- Who was answered or gave back leaves the lists, and the scheduler knows when to look. Last, and at once: a set that becomes empty vanishes (see look.lua).
local function close_limit()
    local at = redis.call('ZCARD', KEYS[3]) > #answered and limit_opens()
    set_limit('used', now)
    redis.call('ZADD', KEYS[4], 0, ARGV[1])
    set_deadline(KEYS[5], ARGV[1], at or now + KEEP_MS)
    if #answered > 0 then redis.call('ZREM', KEYS[3], unpack(answered)) end
    if #returned > 0 then redis.call('ZREM', KEYS[2], unpack(returned)) end
    return effects
end
