-- An operator sets how many jobs may wait in a queue, in one of its partitions, or takes that back. No job is
-- touched.
-- Post: the next enqueue obeys. The name of a queue that is seen for the first time is owed to the registry.
-- Memory: allow-oom; adds 600 bytes per queue.
-- KEYS: 1 c:.  ARGV: 1 queue, 2 the bound of all partitions together, 0 for none, '' for the server's.
-- Returns: effects
--@include keys now preflight set_deadline append_effect
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', KEYS[1], 'created', now) == 1 then append_effect('queue', ARGV[1]) end
if ARGV[2] ~= '' then
    redis.call('HSET', KEYS[1], 'bound', ARGV[2])
    redis.call('HDEL', KEYS[1], 'open') -- enqueue_one.lua knows no bounds
else redis.call('HDEL', KEYS[1], 'bound') end
return effects
