-- Stores a portion of a workflow that is created or restored after it: definitions or results of its jobs,
-- or what is known of each in its record.
-- Pre:  there is no workflow of the id.
-- Post: the portion is stored. It is removed like an ended workflow unless its workflow follows in time.
-- Memory: deny-oom.
-- KEYS: 1 wf:, 2 the hash of the portion: wf:, wd: or wr:, 3 the shard's wfin.
-- ARGV: 1 workflow id, 2 ms to wait for it, then names and values.
-- Returns: {'ok'} | {'exists'}
--@include now long_lists
if redis.call('HEXISTS', KEYS[1], 'state') == 1 then return {'exists'} end
call_in_slices('HSET', KEYS[2], {unpack(ARGV, 3)})
redis.call('ZADD', KEYS[3], now + ARGV[2], ARGV[1])
return {'ok'}
