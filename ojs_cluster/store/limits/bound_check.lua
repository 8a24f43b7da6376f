-- Checks the depth bounds of queues before jobs are written in several steps. Changes nothing.
-- Memory: no-writes.
-- KEYS: 1 queue_counters of the first queue, 2 its queue_available, and so on for each queue.
-- ARGV: 1 bounds, one word per queue (see check_depth_bound.lua), 2.. queue names.
-- Returns: {} when all jobs fit
--          {'draining', position of a queue that takes no new jobs}
--          {'full', position of the full queue in ARGV, from 1, its depth here, its bound here,
--          its strategy}
--@include keys check_depth_bound
local bounds, names = ARGV[1], {}
for i = 2, #ARGV do names[i - 1] = ARGV[i] end
return (refuse_full(names, 1, bounds)) or {}
