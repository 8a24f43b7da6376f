-- Takes back tokens of a rate limit key, and cancels requests for tokens. Running it again changes nothing.
-- Post: the tokens are granted to other jobs. If a job started and no token_start effect has reported that,
--       its start is counted now. The counted start of a job that was fetched and has not started is taken back,
--       where that is exact (see create_limiters.lua).
-- Memory: allow-oom; adds 300 bytes.
-- KEYS: 1 rate_limit, 2 token_holders, 3 token_requesters, 4 rate_limits, 5 rate_limit_checks, 6 outbox,
--       7 outbox_due, 8 events.
-- ARGV: 1 events kept, 2 rate limit key, 3 maximum number of events rate_limit.released,
--       4 shard of the jobs, 5 whether the jobs have started:
--         'u'     not started
--         'r'     fetched and not started
--         's'     started
--         's<ms>' started, and no job of the key may start before this Unix time in ms; 'r<ms>' likewise
--       6.. tokens: <job id>/<request number>.
-- Returns: effects
--@include keys now read_job append_event set_deadline append_effect create_limiters count_starts
--@include rate_limit_state answer_token_requests close_rate_limit
begin_events(ARGV[1])
-- Takes back the start of a job that was fetched and has not started. `score`: that of its token.
local function uncount_token_start(limit, score)
    if score <= 1 then return end
    local limited_at = tonumber(limit.fields.limited_at or 0)
    local override_ends_at = tonumber(limit.fields.override_until or '') -- nil for no end
    if override_ends_at and override_ends_at <= now then limited_at = math.max(limited_at, override_ends_at) end
    local fields = uncount_starts(limiters_of(limit), {score}, limited_at)
    for i = 1, #fields, 2 do set_limit_field(limit, fields[i], fields[i + 1]) end
end
local holders_key, requesters_key, key, shard, start_state = KEYS[2], KEYS[3], ARGV[2], ARGV[4], ARGV[5]
local limit = load_rate_limit(key)
if not limit.fields.used_at then return effects end
local started, released = string.sub(start_state, 1, 1) == 's', string.sub(start_state, 1, 1) == 'r'
local hold_until = tonumber(string.sub(start_state, 2))
for i = 6, #ARGV do
    local token = shard .. '/' .. ARGV[i]
    local score = tonumber(redis.call('ZSCORE', holders_key, token))
    if score then
        if score == 0 and started then count_token_starts(limit, 1)
        elseif score == 0 then limit.uncounted = limit.uncounted - 1
        elseif released then uncount_token_start(limit, score) end
        limit.token_count = limit.token_count - 1
        table.insert(limit.returned, token)
    elseif redis.call('ZSCORE', requesters_key, token) then
        remove_request(limit, token)
    end
end
-- A worker with a wrong clock must not stop a key permanently.
hold_until = hold_until and math.min(hold_until, now + KEEP_MS)
if hold_until and hold_until > tonumber(limit.fields.hold_until or 0) then
    set_limit_field(limit, 'hold_until', string.format('%.0f', hold_until))
    emit_limit_event(limit, 'rate_limit.dynamic_adjusted', '', 'n', limit.fields.hold_until)
end
grant_tokens(limit, ARGV[3])
return close_rate_limit(limit)
