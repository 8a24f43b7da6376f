-- Keeps other jobs of this shard from a worker that is to run a suspect (worker_death.lua), and tells whether it has one.
-- Post: of 'begin': unless the worker is quiet already, it has a quiet flag until the given time, whose half millisecond
--       tells it from the flag of an operator. Of 'abort': it has not this flag. Of 'end': it has no such flag for an
--       earlier or the same time.
-- Memory: allow-oom; adds 300 bytes per isolated worker.
-- KEYS: 1 quiet_workers, 2 active.
-- ARGV: 1 worker id, 2 time in ms, with half a millisecond, 3 'check' | 'begin' | 'abort' | 'end', 4 cursor ('' for the
--       first call), 5 maximum number of active jobs to read.
-- Returns: {1 if the worker holds one of the jobs that were read, or for 'begin' is quiet already, or for 'end' has a flag
--           for a later time, else 0, next cursor ('' at the end)}
--@include keys now preflight read_job walk_active
local QUIET_WORKERS, worker, time, action, cursor = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local flag = redis.call('ZSCORE', QUIET_WORKERS, worker)
if action == 'abort' or action == 'end' then
    local ends = flag == time or action == 'end' and flag and flag % 1 > 0 and tonumber(flag) <= tonumber(time)
    -- set_quiet_flag.lua explains why a flag is not removed by its name.
    if ends then redis.call('ZADD', QUIET_WORKERS, 'XX', 0, worker) end
    redis.call('ZREMRANGEBYSCORE', QUIET_WORKERS, '-inf', now)
    return {flag and not ends and tonumber(flag) > now and 1 or 0, ''}
end
if action == 'begin' and flag and tonumber(flag) > now and flag ~= time then return {1, ''} end
local held, next_cursor = walk_active(cursor, tonumber(ARGV[5]), {F.worker}, function(found)
    return found[1] == worker
end)
run_preflight()
if held[1] then return {1, ''} end
if action == 'begin' and cursor == '' then redis.call('ZADD', QUIET_WORKERS, time, worker) end
return {0, next_cursor}
