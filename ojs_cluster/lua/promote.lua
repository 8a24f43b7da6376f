-- Transition: scheduled | retryable -> available, for up to `limit` due jobs of one shard.
-- Post: what is due is in its queue (or discarded, when its expiry came first).
-- KEYS: 1..4 the shard's due, exp, fin, ev.
-- ARGV: 1 events kept, 2 limit, 3 ms to keep discarded jobs.
-- Returns: {jobs moved, now, ms of the next due job or -1, effects}
--@include keys now job event deadline effect available finish promote
local done = promote_due(tonumber(ARGV[2]), ARGV[3])
local first = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
return {done, now, first[2] and tonumber(first[2]) or -1, effects}
