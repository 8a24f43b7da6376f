-- The end of every script that changes the state of a rate limit key.
local CROWDED_KEYS = 9000
local CROWDED_KEEP_MS = 60 * 1000 -- how long a shard with more keys keeps unused ones

-- Returns for how many ms the state of an unused key is kept.
local function retention_ms()
    return redis.call('ZCARD', RATE_LIMITS) > CROWDED_KEYS and CROWDED_KEEP_MS or KEEP_MS
end

-- Returns the time in ms at which a token becomes free without the end of a job, nil if there is none.
-- `count_all`: counts the jobs with granted and reserved tokens as if they had all started.
local function tokens_free_at(limit, count_all)
    local limiters, hold_until = limiters_of(limit), tonumber(limit.fields.hold_until or 0)
    local starts = count_all and limit.uncounted + limit.reserved or 0
    if starts > 0 then count_starts(limiters, starts) end
    local at = all_open_at(limiters)
    if hold_until > now then at = math.max(at or 0, hold_until) end
    local override_ends_at = limit.fields.override_until
    if override_is_active(limit) and override_ends_at ~= '' then
        at = math.min(at or math.huge, tonumber(override_ends_at))
    end
    return at
end

-- Writes the changed fields, removes answered requests and returned tokens, and sets the time of the scheduler's
-- next check. It must be the last write of a script: it may remove the last member of a set, and no script may
-- touch the set after that (see preflight.lua). `used_at`: ms of the last use of the key, nil for now.
local function close_rate_limit(limit, used_at)
    local at = now + retention_ms()
    if limit.token_count > 0 then
        if not limit.fields.checked_at then set_limit_field(limit, 'checked_at', now) end
        at = limit.fields.checked_at + LIMIT_CHECK_MS
    elseif limit.fields.checked_at then
        redis.call('HDEL', limit.hash_key, 'checked_at')
        limit.fields.checked_at, limit.changed.checked_at = nil, nil
    end
    if redis.call('ZCARD', limit.requesters_key) > #limit.answered then
        at = math.min(at, tokens_free_at(limit) or at)
    end
    if limit.reserved > 0 then at = now end
    limit.changed.used_at = used_at or now
    local changed = {}
    for name, value in pairs(limit.changed) do changed[#changed + 1], changed[#changed + 2] = name, value end
    redis.call('HSET', limit.hash_key, unpack(changed))
    redis.call('ZADD', RATE_LIMITS, 0, limit.key)
    set_deadline(RATE_LIMIT_CHECKS, limit.key, at)
    if #limit.answered > 0 then redis.call('ZREM', limit.requesters_key, unpack(limit.answered)) end
    if #limit.returned > 0 then redis.call('ZREM', limit.holders_key, unpack(limit.returned)) end
    return effects
end
