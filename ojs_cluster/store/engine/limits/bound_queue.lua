-- Sets the depth bound of a queue in one of its partitions, or removes it. Jobs are not changed.
-- Post: the next enqueue obeys the bound. The name of a new queue is sent to the registry of queue names.
-- Memory: allow-oom; adds 600 bytes per queue.
-- KEYS: 1 queue_counters.
-- ARGV: 1 queue, 2 bound of the whole queue in jobs:
--         '0' no bound
--         ''  the queue has no bound of its own: OJS_MAX_QUEUE_DEPTH holds
--       3 what a full queue does (see check_depth_bound.lua), '' for the default
-- Returns: effects
--@include keys now preflight set_deadline append_effect
local counters_key, queue, bound, overflow = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', counters_key, 'created', now) == 1 then append_effect('queue', queue) end
if bound ~= '' then
    redis.call('HSET', counters_key, 'bound', bound)
    -- The field `open` allows enqueue_one.lua, which does not check bounds.
    redis.call('HDEL', counters_key, 'open')
else redis.call('HDEL', counters_key, 'bound') end
if overflow ~= '' then redis.call('HSET', counters_key, 'overflow', overflow)
else redis.call('HDEL', counters_key, 'overflow') end
return effects
