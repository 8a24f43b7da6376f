-- Sets a queue's limits in one of its partitions, or removes them. Jobs are not changed.
-- Post: the next fetch obeys, and the starts that were counted still count; waiting workers fetch again.
--       Nothing changes if the partition has other limits than expected. The name of a new queue is sent to
--       the registry.
-- Memory: allow-oom; adds 700 bytes per queue.
-- KEYS: 1 queue_counters.
-- ARGV: 1 queue, 2 this partition's quota, packed, '' for none, 3 the limits of the whole queue in the first of
--       several partitions, else '', 4 expected limits of the whole queue, '' for none, '*' for any.
-- Returns: effects
--@include keys now preflight set_deadline append_effect
local counters_key, queue, quota, queue_limits, expected = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local found = redis.call('HMGET', counters_key, 'limits', 'queue_limits')
if expected ~= '*' and (found[2] or found[1] or '') ~= expected then return {} end
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', counters_key, 'created', now) == 1 then append_effect('queue', queue) end
if quota ~= '' then redis.call('HSET', counters_key, 'limits', quota)
else redis.call('HDEL', counters_key, 'limits', 'starts', 'next_start') end
if queue_limits ~= '' then redis.call('HSET', counters_key, 'queue_limits', queue_limits)
else redis.call('HDEL', counters_key, 'queue_limits') end
redis.call('SPUBLISH', WAKE_CHANNEL, queue)
return effects
