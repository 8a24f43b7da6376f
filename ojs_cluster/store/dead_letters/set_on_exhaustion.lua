-- Sets what becomes of a queue's jobs after their last attempt, in one of its partitions, or removes it. The
-- next failure obeys, of jobs that are stored already too. A job's own policy has priority.
-- Post: the name of a new queue is sent to the registry.
-- Memory: allow-oom; adds 600 bytes per queue.
-- KEYS: 1 queue_counters.  ARGV: 1 queue, 2 'discard' | 'dead_letter', '' for the server's.
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
