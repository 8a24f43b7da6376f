-- Sets the depth bound of a queue in one of its partitions, or removes it. Jobs are not changed.
-- Post: the next enqueue obeys. The name of a new queue is sent to the registry.
-- Memory: allow-oom; adds 600 bytes per queue.
-- KEYS: 1 queue_counters.  ARGV: 1 queue, 2 the bound of the whole queue, 0 for none, '' for the server's.
-- Returns: effects
--@include keys now preflight set_deadline append_effect
local counters_key, queue, bound = KEYS[1], ARGV[1], ARGV[2]
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', counters_key, 'created', now) == 1 then append_effect('queue', queue) end
if bound ~= '' then
    redis.call('HSET', counters_key, 'bound', bound)
    redis.call('HDEL', counters_key, 'open') -- enqueue_one.lua does not check bounds
else redis.call('HDEL', counters_key, 'bound') end
return effects
