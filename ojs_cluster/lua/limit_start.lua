-- Jobs have started with tokens that were granted to them: from now on time counts.
-- KEYS: 1 l:, 2 lh:, 3 la:, 4 the shard's lims, 5 limlook, 6 ob, 7 out.
-- ARGV: 1 key, 2 shard of the jobs, 3.. asks: id/number.
-- Returns: effects
--@include keys now deadline effect gauges meter limit limit_close
if not limit.used then return effects end
for i = 3, #ARGV do
    local token = ARGV[2] .. '/' .. ARGV[i]
    if redis.call('ZSCORE', KEYS[2], token) == '0' then
        redis.call('ZADD', KEYS[2], 1, token)
        count_starts(1)
    end
end
dispense()
return close_limit()
