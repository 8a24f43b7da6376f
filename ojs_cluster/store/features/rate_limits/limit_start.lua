-- Counts the starts of jobs that have started with granted tokens of a rate limit key.
-- Memory: allow-oom; adds 300 bytes.
-- KEYS: 1 rate_limit, 2 token_holders, 3 token_requesters, 4 rate_limits, 5 rate_limit_checks, 6 outbox,
--       7 outbox_due, 8 events.
-- ARGV: 1 events kept, 2 rate limit key, 3 maximum number of events rate_limit.released,
--       4 shard of the jobs, 5.. tokens: <job id>/<request number>.
-- Returns: effects
--@include keys now read_job append_event set_deadline append_effect create_limiters count_starts
--@include rate_limit_state answer_token_requests close_rate_limit
begin_events(ARGV[1])
local holders_key, key, shard = KEYS[2], ARGV[2], ARGV[4]
local limit = load_rate_limit(key)
if not limit.fields.used_at then return effects end
for i = 5, #ARGV do
    local token = shard .. '/' .. ARGV[i]
    if redis.call('ZSCORE', holders_key, token) == '0' then -- the start is not counted yet
        redis.call('ZADD', holders_key, counted_score(limit), token)
        count_token_starts(limit, 1)
    end
end
grant_tokens(limit, ARGV[3])
return close_rate_limit(limit)
