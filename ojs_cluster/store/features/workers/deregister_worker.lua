-- Transition: terminated -> gone, or silent -> lost, for a worker whose record is removed.
-- Pre:  the worker has reported that it terminates and has no active job. Or it has been silent for three of its
--       intervals and for the minimum silence, if one is given.
-- Post: its record is gone. If it was silent, lost_workers has it, so the scheduler recovers its jobs.
-- Memory: allow-oom; adds 100 bytes, less than it removes.
-- KEYS: 1 worker, 2 workers, 3 watched, 4 lost_workers.
-- ARGV: 1 worker id, 2 minimum silence (ms), or '' to remove only a worker that has terminated.
-- Returns: {'ok'} | {'missing'} | {'alive', ms since the last heartbeat or fetch}
--@include now
local WORKER, WORKERS, WATCHED, LOST_WORKERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, min_silence = ARGV[1], tonumber(ARGV[2])
if redis.call('EXISTS', WORKER) == 0 then return {'missing'} end
local seen, gap, state, active = unpack(redis.call('HMGET', WORKER, 'last_seen', 'heartbeat_gap', 'state', 'active'))
local terminated = state == 'terminate' and active == '0'
local silence = now - (tonumber(seen) or 0)
local silent = min_silence and silence >= math.max(min_silence, 3 * (tonumber(gap) or 0))
if not terminated and not silent then return {'alive', silence} end
redis.call('UNLINK', WORKER)
if not terminated then redis.call('ZADD', LOST_WORKERS, now, id) end
redis.call('ZREM', WORKERS, id)
redis.call('ZREM', WATCHED, id)
return {'ok'}
