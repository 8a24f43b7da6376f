-- What time does to rate limits in a shard: the waiters of queues whose limits have room again are woken;
-- the rest is only told.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the shard's open, 2 grants, 3 limlook.  ARGV: 1 limit, 2 most keys.
-- Returns: {queues, now, ms of what comes next or -1, 1 when grants are due, keys to look at}
--@include keys now remove_many lowest_remaining
local queues = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, queue in ipairs(queues) do
    remove_member(KEYS[1], queue)
    redis.call('SPUBLISH', WAKE_CHANNEL, queue)
end
local following = lowest_remaining(KEYS[1]) or -1
for _, zset in ipairs({KEYS[2], KEYS[3]}) do
    local first = redis.call('ZRANGEBYSCORE', zset, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    local at = tonumber(first[2] or -1)
    if at >= 0 and (following < 0 or at < following) then following = at end
end
local granted = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1)
local keys = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, ARGV[2])
flush_removals()
return {#queues, now, following, #granted, keys}
