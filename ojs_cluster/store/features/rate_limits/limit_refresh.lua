-- Grants the tokens of a rate limit key that are free because time has passed, and removes an unused key.
-- Every LIMIT_CHECK_MS it sends the granted tokens again. A shard that has lost the job in a failover then
-- returns its token.
-- Memory: allow-oom; adds 300 bytes.
-- KEYS: 1 rate_limit, 2 token_holders, 3 token_requesters, 4 rate_limits, 5 rate_limit_checks, 6 outbox,
--       7 outbox_due, 8 events.
-- ARGV: 1 events kept, 2 rate limit key, 3 maximum number of events rate_limit.released.
-- Returns: effects
--@include keys now read_job append_event set_deadline append_effect create_limiters count_starts
--@include rate_limit_state answer_token_requests close_rate_limit
begin_events(ARGV[1])
local hash_key, holders_key, requesters_key = KEYS[1], KEYS[2], KEYS[3]
local rate_limits_key, checks_key = KEYS[4], KEYS[5]
local key = ARGV[2]
local limit = load_rate_limit(key)
-- MAX_CHECKED: tokens that one run sends again. MAX_SENT: tokens in one effect.
local fields, MAX_CHECKED, MAX_SENT, PAUSE_MS = limit.fields, 500, 100, 1000
-- A key with a rate is kept for a whole period, because its last starts count for that time.
local period = tonumber(string.match(fields.limits or '', ',%d+:(%d+),') or 0)
local unused = limit.token_count == 0 and redis.call('ZCARD', requesters_key) == 0 and not override_is_active(limit)
    and now - (fields.used_at or 0) >= math.max(retention_ms(), period)
    and math.max(fields.hold_until or 0, fields.next_start or 0) <= now
if unused then
    redis.call('DEL', hash_key)
    redis.call('ZREM', rate_limits_key, key)
    redis.call('ZREM', checks_key, key)
    return effects
end
local used_at = fields.used_at
if limit.token_count > 0 and now - (fields.checked_at or now) >= LIMIT_CHECK_MS then
    local offset = tonumber(fields.check_offset or 0)
    local tokens = redis.call('ZRANGE', holders_key, offset, offset + MAX_CHECKED - 1)
    for from = 1, #tokens, MAX_SENT do
        send_tokens(limit, {unpack(tokens, from, math.min(from + MAX_SENT - 1, #tokens))})
    end
    -- With more tokens than MAX_CHECKED the next run continues after PAUSE_MS.
    local unfinished = #tokens == MAX_CHECKED
    set_limit_field(limit, 'check_offset', unfinished and offset + MAX_CHECKED or 0)
    set_limit_field(limit, 'checked_at', unfinished and now - LIMIT_CHECK_MS + PAUSE_MS or now)
end
grant_tokens(limit, ARGV[3])
return close_rate_limit(limit, used_at) -- a refresh does not count as a use
