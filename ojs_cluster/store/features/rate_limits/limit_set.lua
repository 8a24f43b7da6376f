-- Changes the limits of a rate limit key: a job declares them, or an operator overrides them.
-- Post: the key has the limits of the newest job that declared any, except those that the override replaces. A job
--       that finds its limits in force declares nothing. An override that has already ended changes nothing. A
--       declaration of a new key changes nothing when the shard has MAX_KEYS keys; the token requests of the jobs
--       carry the limits again.
-- Memory: allow-oom; adds 1 KiB per key.
-- KEYS: 1 rate_limit, 2 token_holders, 3 token_requesters, 4 rate_limits, 5 rate_limit_checks, 6 outbox,
--       7 outbox_due, 8 events.
-- ARGV: 1 events kept, 2 rate limit key, 3 maximum number of events rate_limit.released, 4 action:
--         'declare'  5 packed limits of a job, 6 ms at which the job was created
--         'override' 5 packed limits ('' removes the override), 6 ms at which the override ends ('' never)
-- Returns: effects
--@include keys now read_job append_event set_deadline append_effect create_limiters count_starts
--@include rate_limit_state answer_token_requests close_rate_limit
begin_events(ARGV[1])
local hash_key, key, action, packed, time = KEYS[1], ARGV[2], ARGV[4], ARGV[5], ARGV[6]
local limit = load_rate_limit(key)
if action == 'override' and packed == '' then
    if not limit.fields.used_at then return effects end
    if limit.fields.override then set_limit_field(limit, 'limited_at', now) end
    redis.call('HDEL', hash_key, 'override', 'override_until')
    limit.fields.override, limit.fields.override_until = nil, nil
elseif action == 'override' then
    if time ~= '' and tonumber(time) <= now then return effects end
    set_limit_field(limit, 'limited_at', now)
    set_limit_field(limit, 'override', packed)
    set_limit_field(limit, 'override_until', time)
elseif not limit.fields.used_at and redis.call('ZCARD', RATE_LIMITS) >= MAX_KEYS then
    return effects
elseif tonumber(time) >= tonumber(limit.fields.declared_at or 0) then
    if packed ~= limit.fields.limits then set_limit_field(limit, 'limited_at', now) end
    set_limit_field(limit, 'limits', packed)
    set_limit_field(limit, 'declared_at', time)
end
grant_tokens(limit, ARGV[3])
return close_rate_limit(limit)
