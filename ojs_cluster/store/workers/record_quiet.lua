-- Notes in a worker's record that its quiet marks are set in all shards (or taken back).
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 the worker's hash.  ARGV: 1 '1' set, '0' taken back.
-- Returns: now
--@include now
if redis.call('EXISTS', KEYS[1]) == 1 then
    if ARGV[1] == '1' then redis.call('HSET', KEYS[1], 'quiet', now)
    else redis.call('HDEL', KEYS[1], 'quiet') end
end
return now
