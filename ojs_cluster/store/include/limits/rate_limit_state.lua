-- The state of one rate limit key, in the shard of the key:
--   token_holders    granted tokens, with score 0. When the start of the job is counted, the score is the ms at
--     which a rate or throttle counted it, or 1 if the key had neither.
--   token_requesters requested tokens, in the order of the requests.
--   rate_limit       hash: limits (packed, see core/rate_limit.py), declared_at (ms at which the job that
--     declared them was created), override and override_until (of an operator), limited_at (ms of the last change
--     of these, except the end of an override at its time), hold_until (ms until which no job may start), starts
--     and next_start (see create_limiters.lua), last_request (number of requests so far), used_at (ms), checked_at
--     (ms of the last check of the holders), check_offset (position in token_holders at which the next check
--     continues), strategy (name of the limit that was reached last).
-- A token is named '<shard of the job>/<job id>/<request number>'.
local KEEP_MS = 24 * 3600 * 1000 -- how long the state of an unused key is kept
local MAX_KEYS = 10000 -- maximum number of keys in one shard: the same as in store/ground/process_state/limit_keys.py
local LIMIT_CHECK_MS = 600 * 1000 -- time between two checks of the holders: see limit_refresh.lua

local function load_rate_limit(key)
    local limit = {key = key, hash_key = rate_limit_key(key), holders_key = token_holders_key(key),
        requesters_key = token_requesters_key(key), fields = {}, changed = {}, answered = {}, returned = {},
        reserved = 0}
    local field_list = redis.call('HGETALL', limit.hash_key)
    for i = 1, #field_list, 2 do limit.fields[field_list[i]] = field_list[i + 1] end
    -- token_count: number of granted tokens. uncounted: number of those whose start is not counted.
    limit.token_count = redis.call('ZCARD', limit.holders_key)
    limit.uncounted = redis.call('ZCOUNT', limit.holders_key, 0, 0)
    return limit
end

-- Sets a field. close_rate_limit writes it.
local function set_limit_field(limit, name, value)
    limit.fields[name], limit.changed[name] = value, value
end

local function override_is_active(limit)
    local ends_at = limit.fields.override_until -- '' for no end
    return limit.fields.override and (ends_at == '' or tonumber(ends_at) > now)
end

-- Returns the limiters of a key. Where an override names a limit, it replaces the declared limit.
local function limiters_of(limit)
    local limiters, packed = {}, limit.fields.limits or '-,-,-'
    if override_is_active(limit) then
        local override = string.gmatch(limit.fields.override, '[^,]+')
        packed = string.gsub(packed, '[^,]+', function(declared)
            local value = override()
            return value == '-' and declared or value
        end)
    end
    add_limiters(limiters, packed, limit.token_count, limit.fields.starts, limit.fields.next_start)
    return limiters
end

-- Returns how many tokens may be granted now, at most 1000 to bound the time of a script.
local function free_tokens(limit)
    if tonumber(limit.fields.hold_until or 0) > now then return 0 end
    return free_starts(limiters_of(limit), 1000, limit.uncounted)
end

-- Counts the starts of `n` jobs that hold granted tokens.
local function count_token_starts(limit, n)
    limit.uncounted = limit.uncounted - n
    local fields = count_starts(limiters_of(limit), n)
    for i = 1, #fields, 2 do set_limit_field(limit, fields[i], fields[i + 1]) end
end

-- Returns the score in token_holders of a token whose start is counted now.
local function counted_score(limit)
    for _, limiter in ipairs(limiters_of(limit)) do if limiter.timed then return now end end
    return 1
end

-- Marks a request as answered. close_rate_limit removes it at the end of the script.
local function remove_request(limit, token)
    limit.answered[token] = true
    table.insert(limit.answered, token)
end
