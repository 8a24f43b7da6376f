-- An operator sets a queue's limits, or takes them back. Its jobs are not touched.
-- Post: the next pop obeys, with the starts that were counted so far; waiters look again.
-- KEYS: 1 c:.  ARGV: 1 queue, 2 packed limits or '' for none.
-- Returns: 1 when the queue was seen for the first time
--@include keys now
local first = redis.call('HSETNX', KEYS[1], 'created', now)
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'limits', ARGV[2])
else redis.call('HDEL', KEYS[1], 'limits', 'starts', 'next') end
redis.call('SPUBLISH', WAKE, ARGV[1])
return first
