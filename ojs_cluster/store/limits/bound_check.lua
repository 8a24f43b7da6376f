-- Whether queues have room for jobs that are about to be written in several steps. Changes nothing.
-- Memory: no-writes.
-- KEYS: 1 c: of the first queue, 2 its q:, and so on for each queue.
-- ARGV: 1 terms (see bound.lua), then the queue names.
-- Returns: {} | {'full', position (1-based), depth, bound}
--@include keys check_depth_bound
local names = {}
for i = 2, #ARGV do names[i - 1] = ARGV[i] end
return refuse_full(names, 1, ARGV[1]) or {}
