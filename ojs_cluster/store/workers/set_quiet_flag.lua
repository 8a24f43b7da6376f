-- Sets or removes a worker's quiet flag in this shard. Fetch reads the flag inside its pop.
-- Post: the worker gets no job from this shard until the flag expires, or gets jobs again.
-- Memory: allow-oom; adds 300 bytes per quiet worker.
-- KEYS: 1 quiet_workers.
-- ARGV: 1 worker id, 2 ms for which the flag is valid (0 removes it).
-- Returns: now
--@include now
local QUIET_WORKERS, id, valid_ms = KEYS[1], ARGV[1], ARGV[2]
-- A removed flag is one that has expired, so that a single command removes entries: see preflight.lua.
if valid_ms == '0' then redis.call('ZADD', QUIET_WORKERS, 'XX', 0, id)
else redis.call('ZADD', QUIET_WORKERS, now + valid_ms, id) end
redis.call('ZREMRANGEBYSCORE', QUIET_WORKERS, '-inf', now)
return now
