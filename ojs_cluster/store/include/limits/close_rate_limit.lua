-- When a rate limit key has room again, and the end of every script over one.

-- The ms at which time alone lets more start, or nil. `all`: when those who have tokens have started.
local function limit_opens(limit, all)
    local meter, hold = limit_meter(limit), tonumber(limit.fields.hold_until or 0)
    if all and limit.coming > 0 then start(meter, limit.coming) end
    local at = opens(meter)
    if hold > now then at = math.max(at or 0, hold) end
    local until_ = limit.fields.override_until
    if override_holds(limit) and until_ ~= '' then
        at = math.min(at or math.huge, tonumber(until_))
    end
    return at
end

-- Who was answered or gave back leaves the lists, and the scheduler knows when to look. Last, and at
-- once: a set that becomes empty vanishes (see look.lua).
local function close_limit(limit)
    local at = now + keep_ms()
    if limit.out > 0 then
        if not limit.fields.checked_at then set_limit(limit, 'checked_at', now) end
        at = limit.fields.checked_at + LIMIT_CHECK_MS
    elseif limit.fields.checked_at then
        redis.call('HDEL', limit.l, 'checked_at')
        limit.fields.checked_at = nil
    end
    if redis.call('ZCARD', limit.la) > #limit.answered then
        at = math.min(at, limit_opens(limit) or at)
    end
    set_limit(limit, 'used_at', now)
    redis.call('ZADD', RATE_LIMITS, 0, limit.key)
    set_deadline(RATE_LIMIT_CHECKS, limit.key, at)
    if #limit.answered > 0 then redis.call('ZREM', limit.la, unpack(limit.answered)) end
    if #limit.returned > 0 then redis.call('ZREM', limit.lh, unpack(limit.returned)) end
    return effects
end
