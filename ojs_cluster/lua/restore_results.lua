-- Results of jobs of a workflow that is restored after them, a portion of them.
-- Pre:  there is no workflow of the id.
-- Post: the results are stored. They are removed like an ended workflow unless theirs follows in time.
-- Memory: deny-oom.
-- KEYS: 1 wf:, 2 wr:, 3 the shard's wfin.
-- ARGV: 1 workflow id, 2 ms to wait for it, then numbers of jobs and their results.
-- Returns: {'ok'} | {'exists'}
--@include now
if redis.call('EXISTS', KEYS[1]) == 1 then return {'exists'} end
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('ZADD', KEYS[3], now + ARGV[2], ARGV[1])
return {'ok'}
