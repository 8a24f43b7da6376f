-- Changes the limits of a key: a job declares them, or an operator overrides them.
-- Post: the declaration of the newest job holds; a limit that an override names holds instead of it. An
--       expired override changes nothing. A declaration of a new key changes nothing in a full shard; the
--       jobs of the key bring the limits again with their token requests.
-- Memory: allow-oom; adds 1 KiB per key.
-- KEYS: 1 rate_limit, 2 token_holders, 3 token_requesters, 4 rate_limits, 5 rate_limit_checks, 6 outbox,
--       7 outbox_due, 8 events.
-- ARGV: 1 events kept, 2 key, 3 'declare' | 'override', 4 packed limits ('' removes the override),
--       5 declare: ms of the job's creation; override: ms of its end, '' for none.
-- Returns: effects
--@include keys now read_job append_event set_deadline append_effect create_limiters count_starts
--@include rate_limit_state answer_token_requests close_rate_limit
local hash_key, key, action, packed, time = KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local limit = load_rate_limit(key)
if action == 'override' and packed == '' then
    if not limit.fields.used_at then return effects end
    redis.call('HDEL', hash_key, 'override', 'override_until')
    limit.fields.override = nil
elseif action == 'override' then
    if time ~= '' and tonumber(time) <= now then return effects end
    set_limit_field(limit, 'override', packed)
    set_limit_field(limit, 'override_until', time)
elseif not limit.fields.used_at and redis.call('ZCARD', RATE_LIMITS) >= MAX_KEYS then
    return effects
elseif tonumber(time) >= tonumber(limit.fields.declared_at or 0) then
    set_limit_field(limit, 'limits', packed)
    set_limit_field(limit, 'declared_at', time)
end
grant_tokens(limit)
return close_rate_limit(limit)
