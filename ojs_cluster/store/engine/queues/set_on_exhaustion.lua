-- Sets or removes the on_exhaustion of a queue in one of its partitions. It decides what happens to the queue's
-- jobs after their last attempt.
-- Post: the setting holds for all failures from now on, also of jobs that are already stored. A retry policy
--       with on_exhaustion overrides it. The name of a new queue is sent to the registry of queue names.
-- Memory: allow-oom; adds 600 bytes per queue.
-- KEYS: 1 queue_counters.
-- ARGV: 1 queue, 2 on_exhaustion: 'discard' | 'dead_letter' | '' (the queue has no setting, so that
--       OJS_ON_EXHAUSTION holds).
-- Returns: effects
--@include keys now preflight set_deadline append_effect
local counters_key, queue, decision = KEYS[1], ARGV[1], ARGV[2]
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', counters_key, 'created', now) == 1 then append_effect('queue', queue) end
if decision ~= '' then redis.call('HSET', counters_key, 'on_exhaustion', decision)
else redis.call('HDEL', counters_key, 'on_exhaustion') end
return effects
