-- Jobs have started with tokens that were granted to them: from now on time counts.
-- Memory: allow-oom; adds 300 bytes.
-- KEYS: 1 l:, 2 lh:, 3 la:, 4 the shard's lims, 5 limlook, 6 ob, 7 out, 8 ev.
-- ARGV: 1 events kept, 2 key, 3 shard of the jobs, 4.. asks: id/number.
-- Returns: effects
--@include keys now read_job append_event set_deadline append_effect read_gauges count_starts
--@include rate_limit_state answer_token_requests close_rate_limit
local limit = load_limit(ARGV[2])
if not limit.fields.used_at then return effects end
for i = 4, #ARGV do
    local token = ARGV[3] .. '/' .. ARGV[i]
    if redis.call('ZSCORE', KEYS[2], token) == '0' then
        redis.call('ZADD', KEYS[2], 1, token)
        count_starts(limit, 1)
    end
end
dispense(limit)
return close_limit(limit)
