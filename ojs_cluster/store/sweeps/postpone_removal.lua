-- Postpones the removal of finished jobs that cannot be removed now, so that other jobs are removed first.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 finished.
-- ARGV: 1 time of the next try in ms, then the ids of the jobs.
-- Returns: number of jobs
local finished, next_try_ms = KEYS[1], ARGV[1]
for i = 2, #ARGV do redis.call('ZADD', finished, 'XX', next_try_ms, ARGV[i]) end
return #ARGV - 1
