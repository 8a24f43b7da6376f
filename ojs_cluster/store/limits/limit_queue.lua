-- An operator sets a queue's limits in one of its partitions, or takes them back. No job is touched.
-- Post: the next pop obeys, with the starts that were counted so far; waiters look again.
--       Nothing where other limits of the whole queue are found than were seen. The name of a queue
--       that is seen for the first time is owed to the registry.
-- Memory: allow-oom; adds 700 bytes per queue.
-- KEYS: 1 c:.
-- ARGV: 1 queue, 2 this partition's share of the limits, packed, or '' for none, 3 the limits of all
--       partitions where this is the first of several, else '', 4 the limits of all that were seen
--       here, '' for none, or '*' for whatever is there.
-- Returns: effects
--@include keys now preflight set_deadline append_effect
local found = redis.call('HMGET', KEYS[1], 'limits', 'queue_limits')
if ARGV[4] ~= '*' and (found[2] or found[1] or '') ~= ARGV[4] then return {} end
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', KEYS[1], 'created', now) == 1 then append_effect('queue', ARGV[1]) end
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'limits', ARGV[2])
else redis.call('HDEL', KEYS[1], 'limits', 'starts', 'next_start') end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'queue_limits', ARGV[3])
else redis.call('HDEL', KEYS[1], 'queue_limits') end
redis.call('SPUBLISH', WAKE_CHANNEL, ARGV[1])
return effects
