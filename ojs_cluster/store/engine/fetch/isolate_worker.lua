-- Isolates a worker in this shard, so that it gets no other job than a suspect (worker_death.lua). `time` is that until
-- which it is isolated, and names the isolation: a worker has one at a time.
-- Post: 'check':  nothing has changed.
--       'begin':  the worker is isolated, unless it holds a job, or it or too many others are isolated already.
--       'abort':  this isolation has ended.
--       'end':    any isolation until this time, or an earlier one, has ended.
-- Memory: allow-oom; adds 300 bytes per isolated worker.
-- KEYS: 1 quiet_workers, 2 active.
-- ARGV: 1 worker id, 2 time in ms, 3 'check' | 'begin' | 'abort' | 'end', 4 cursor ('' for the first call), 5 maximum
--       number of active jobs to read.
-- Returns: {1 if the worker holds one of the jobs that were read, or 'begin' was refused, or 'abort' or 'end' has left
--           an isolation, or 'check' met one for a later time, else 0; next cursor, '' at the end; this shard's time in ms}
--@include keys now preflight read_job walk_active isolated_workers
local QUIET_WORKERS, worker, time, action, cursor = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local isolation = isolation_of(worker)
local isolated_until = redis.call('ZSCORE', QUIET_WORKERS, isolation)
local is_isolated = isolated_until and tonumber(isolated_until) > now
if action == 'abort' or action == 'end' then
    local ends = isolated_until == time
        or action == 'end' and isolated_until and tonumber(isolated_until) <= tonumber(time)
    -- set_quiet_flag.lua explains why a member is not removed by its name.
    if ends then redis.call('ZADD', QUIET_WORKERS, 'XX', 0, isolation) end
    redis.call('ZREMRANGEBYSCORE', QUIET_WORKERS, '-inf', now)
    return {is_isolated and not ends and 1 or 0, '', now}
end
if action == 'begin' and isolated_until ~= time and (is_isolated or not may_isolate(QUIET_WORKERS)) then
    return {1, '', now}
end
if action == 'check' and isolated_until and tonumber(isolated_until) > tonumber(time) then return {1, '', now} end
local held, next_cursor = walk_active(cursor, tonumber(ARGV[5]), {F.worker}, function(found)
    return found[1] == worker
end)
run_preflight()
if held[1] then return {1, '', now} end
if action == 'begin' and cursor == '' then redis.call('ZADD', QUIET_WORKERS, time, isolation) end
return {0, next_cursor, now}
