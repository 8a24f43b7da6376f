-- The state of one rate limit key, in the shard of the key: l: the limits, lh: tokens given out (0 granted,
-- 1 started), la: tokens asked for, in turn. A token is named by who asks for it: 'shard/job/number'.
-- Fields of l:: limits, at (when the job was created that declared them last), over, over_until (an
-- operator's override), hold (ms until which nothing starts), starts, next (see gauges.lua), seq (of
-- asks), used (ms of the last use), checked (ms of the last check of what is given out),
-- place (how far that came), strategy (which limit was met last).
local KEEP_MS = 24 * 3600 * 1000
local MOST_KEYS = 10000 -- of one shard: twin of store/limits/limit_keys.py
local CROWDED_KEYS, CROWDED_MS = 9000, 60 * 1000
local LIMIT_CHECK_MS = 600 * 1000
local LATER_MS = 5000 -- where only the end of another job makes room

-- How long the state of a key is kept that nobody uses. Where there are nearly as many as there may be, others
-- need the room more.
local function keep_ms()
    return redis.call('ZCARD', RATE_LIMITS) > CROWDED_KEYS and CROWDED_MS or KEEP_MS
end

local function load_limit(key)
    local limit = {key = key, l = rate_limit_key(key), lh = token_holders_key(key), la = token_requesters_key(key),
        fields = {}, answered = {}, returned = {}}
    local flat = redis.call('HGETALL', limit.l)
    for i = 1, #flat, 2 do limit.fields[flat[i]] = flat[i + 1] end
    limit.out, limit.coming = redis.call('ZCARD', limit.lh), redis.call('ZCOUNT', limit.lh, 0, 0)
    return limit
end

local function set_limit(limit, name, value)
    limit.fields[name] = value
    redis.call('HSET', limit.l, name, value)
end

local function override_holds(limit)
    local until_ = limit.fields.override_until
    return limit.fields.override and (until_ == '' or tonumber(until_) > now)
end

local function limit_meter(limit)
    local meter, packed = {}, limit.fields.limits or '-,-,-'
    if override_holds(limit) then
        local over = string.gmatch(limit.fields.override, '[^,]+')
        packed = string.gsub(packed, '[^,]+', function(own)
            local value = over()
            return value == '-' and own or value
        end)
    end
    add_limits(meter, packed, limit.out, limit.fields.starts, limit.fields.next_start)
    return meter
end

-- How many tokens may be given out now.
local function limit_room(limit, meter)
    if tonumber(limit.fields.hold_until or 0) > now then return 0 end
    return room(meter, 1000, limit.coming)
end

-- Jobs start with tokens that were granted.
local function count_starts(limit, n)
    limit.coming = limit.coming - n
    local fields = start(limit_meter(limit), n)
    for i = 1, #fields, 2 do set_limit(limit, fields[i], fields[i + 1]) end
end

-- An ask leaves the list, at the end of the script.
local function answer(limit, token)
    limit.answered[token] = true
    table.insert(limit.answered, token)
end
