-- What was counted of a queue, and what its jobs have declared for it, comes back from a backup.
-- Post: what was saved is set, where nothing is set here. Its jobs are not touched.
-- Memory: deny-oom.
-- KEYS: 1 c:.  ARGV: 1.. names and values of its fields.
-- Returns: 1 when the queue was seen for the first time
--@include now
local first = redis.call('HSETNX', KEYS[1], 'created', now)
for i = 1, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
if redis.call('HEXISTS', KEYS[1], 'mps') == 1 then redis.call('HSETNX', KEYS[1], 'mpsat', now) end
return first
