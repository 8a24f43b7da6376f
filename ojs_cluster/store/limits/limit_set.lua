-- A key's limits change: a job declares them, or an operator overrides them for a time.
-- Post: the declaration of the youngest job holds; where an override names a limit, that holds. An
--       override that is over already changes nothing, nor does the declaration of a new key where the
--       shard has as many as it may: its jobs bring it when they ask for tokens.
-- Memory: allow-oom; adds 1 KiB per key.
-- KEYS: 1 l:, 2 lh:, 3 la:, 4 the shard's lims, 5 limlook, 6 ob, 7 out, 8 ev.
-- ARGV: 1 events kept, 2 key, 3 'declare' | 'override', 4 packed limits ('' takes the override back),
--       5 declare: ms of the job's creation; override: ms of its end, '' for none.
-- Returns: effects
--@include keys now read_job append_event set_deadline append_effect read_gauges count_starts
--@include rate_limit_state answer_token_requests close_rate_limit
local limit = load_limit(ARGV[2])
if ARGV[3] == 'override' and ARGV[4] == '' then
    if not limit.fields.used_at then return effects end
    redis.call('HDEL', KEYS[1], 'override', 'override_until')
    limit.fields.override = nil
elseif ARGV[3] == 'override' then
    if ARGV[5] ~= '' and tonumber(ARGV[5]) <= now then return effects end
    set_limit(limit, 'override', ARGV[4])
    set_limit(limit, 'override_until', ARGV[5])
elseif not limit.fields.used_at and redis.call('ZCARD', RATE_LIMITS) >= MOST_KEYS then
    return effects
elseif tonumber(ARGV[5]) >= tonumber(limit.fields.declared_at or 0) then
    set_limit(limit, 'limits', ARGV[4])
    set_limit(limit, 'declared_at', ARGV[5])
end
dispense(limit)
return close_limit(limit)
