-- Records in a worker's record that its quiet flags are set in all shards, or are removed.
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 worker.
-- ARGV: 1 '1' when the flags are set, '0' when they are removed.
-- Returns: now
--@include now
local WORKER, set = KEYS[1], ARGV[1] == '1'
if redis.call('EXISTS', WORKER) == 1 then
    if set then redis.call('HSET', WORKER, 'quiet_flag_at', now)
    else redis.call('HDEL', WORKER, 'quiet_flag_at') end
end
return now
