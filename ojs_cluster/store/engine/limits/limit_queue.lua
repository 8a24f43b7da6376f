-- Sets a queue's limits in one of its partitions, or removes them. Jobs are not changed.
-- Post: the next fetch obeys the new limits. Starts counted under old limits still count. Waiting workers
--       fetch again. Nothing changes if the limits stored here are not the expected ones. The name of a new
--       queue is sent to the registry of queue names.
-- Memory: allow-oom; adds 700 bytes per queue.
-- KEYS: 1 queue_counters.
-- ARGV: 1 queue, 2 packed quota of this partition ('' for none), 3 packed limits of the whole queue, for
--       partition 0 of a queue with several partitions, else '', 4 expected packed limits of the whole queue:
--         ''  the queue has no limits
--         '*' any limits
-- Returns: effects
--@include keys now preflight set_deadline append_effect wake_queue
local counters_key, queue, quota, queue_limits, expected = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local old_quota, old_limits = unpack(redis.call('HMGET', counters_key, 'limits', 'queue_limits'))
if expected ~= '*' and (old_limits or old_quota or '') ~= expected then return {} end
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', counters_key, 'created', now) == 1 then append_effect('queue', queue) end
if quota ~= '' then redis.call('HSET', counters_key, 'limits', quota, 'limited_at', now)
else redis.call('HDEL', counters_key, 'limits', 'limited_at', 'starts', 'next_start') end
if queue_limits ~= '' then redis.call('HSET', counters_key, 'queue_limits', queue_limits)
else redis.call('HDEL', counters_key, 'queue_limits') end
wake_queue(queue)
return effects
