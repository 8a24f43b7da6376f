-- Checks whether queues have room for jobs that will be written in several steps. Changes nothing.
-- Memory: no-writes.
-- KEYS: 1 queue_counters of the first queue, 2 its queue_available, and so on for each queue.
-- ARGV: 1 bounds (see check_depth_bound.lua), then the queue names.
-- Returns: {} | {'full', position (1-based), depth, bound}
--@include keys check_depth_bound
local bounds, names = ARGV[1], {}
for i = 2, #ARGV do names[i - 1] = ARGV[i] end
return refuse_full(names, 1, bounds) or {}
