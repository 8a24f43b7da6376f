-- Ended jobs that cannot be removed now stand behind the others until a later try.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the shard's fin.  ARGV: 1 ms of the next try, then the ids of the jobs.
-- Returns: how many jobs
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', ARGV[1], ARGV[i]) end
return #ARGV - 1
