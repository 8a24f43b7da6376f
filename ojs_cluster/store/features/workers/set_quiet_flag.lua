-- Sets or removes a worker's quiet flag in this shard. The fetch scripts read the flag.
-- Post: while the flag is set and has not expired, the worker gets no job from this shard. Its isolation, if it runs
--       a suspect, is another member of the set and has not changed (isolated_workers.lua).
-- Memory: allow-oom; adds 300 bytes per quiet worker.
-- KEYS: 1 quiet_workers.
-- ARGV: 1 worker id, 2 time for which the flag is valid (ms; 0 removes it).
-- Returns: now
--@include now
local QUIET_WORKERS, id, valid_ms = KEYS[1], ARGV[1], ARGV[2]
-- To remove a flag, its time is set to 0. Then only ZREMRANGEBYSCORE removes entries: after one removal has
-- emptied the set, a second command on its key could fail (see preflight.lua).
if valid_ms == '0' then redis.call('ZADD', QUIET_WORKERS, 'XX', 0, id)
else redis.call('ZADD', QUIET_WORKERS, now + valid_ms, id) end
redis.call('ZREMRANGEBYSCORE', QUIET_WORKERS, '-inf', now)
return now
