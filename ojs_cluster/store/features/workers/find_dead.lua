-- Transition: watched -> lost, for workers of one shard that have been silent for too long. (A watched worker
-- is one in the set `watched`: it sends heartbeats steadily, so its silence means that it is dead.)
-- Post: lost_workers has each dead worker with the time of its death, until finish_recovery.lua removes it. So
--       after a crash of this scheduler the next scheduler continues the recovery. If no check has run for
--       15 s, workers may not have reached this master either. Then each silent worker is watched for one more
--       interval, once in each silence.
-- Memory: allow-oom; adds 100 bytes per worker.
-- KEYS: 1 watched, 2 lost_workers, 3 last_worker_check.
-- ARGV: 1 maximum number of workers, 2 minimum silence before death (ms), 3 number of lost workers to skip,
--       those that died first.
-- Returns: {now, time of the next possible death (ms) or -1, per lost worker: id, time of death (ms), 1 when
--          the worker had reported that it terminates, otherwise 0}
--@include keys now preflight remove_many lowest_remaining
local OVERDUE_MS = 15000 -- checks are ten seconds apart at most
local WATCHED, LOST_WORKERS, LAST_CHECK = KEYS[1], KEYS[2], KEYS[3]
local limit, min_silence, skip = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local first, last = skip, skip + limit - 1
local silent = redis.call('ZRANGEBYSCORE', WATCHED, '-inf', now, 'LIMIT', 0, limit)
local last_check = tonumber(redis.call('GET', LAST_CHECK) or '')
local check_overdue = last_check and now - last_check > OVERDUE_MS
local terminated, extension_ms = {}, {}
for _, worker in ipairs(silent) do
    local seen, gap, watched_again = unpack(redis.call('HMGET', worker_key(worker),
        'last_seen', 'heartbeat_gap', 'watched_again'))
    if check_overdue and seen and (tonumber(watched_again) or 0) < (tonumber(seen) or 0) then
        extension_ms[worker] = math.max(min_silence, 3 * (tonumber(gap) or 0))
    end
end
for _, workers in ipairs({silent, redis.call('ZRANGE', LOST_WORKERS, first, last)}) do
    for _, worker in ipairs(workers) do
        local state = redis.call('HGET', worker_key(worker), 'state')
        if not state then preflight_key(worker_key(worker)) end
        terminated[worker] = state == 'terminate' and 1 or 0
    end
end
run_preflight()
redis.call('SET', LAST_CHECK, now)
for _, worker in ipairs(silent) do
    if extension_ms[worker] then
        redis.call('HSET', worker_key(worker), 'watched_again', now)
        redis.call('ZADD', WATCHED, now + extension_ms[worker], worker)
    else
        remove_member(WATCHED, worker)
        redis.call('ZADD', LOST_WORKERS, now, worker)
    end
end
local reply = {now, lowest_remaining(WATCHED) or -1}
flush_removals()
local lost = redis.call('ZRANGE', LOST_WORKERS, first, last, 'WITHSCORES')
for i = 1, #lost, 2 do
    local at = #reply
    reply[at + 1], reply[at + 2], reply[at + 3] = lost[i], lost[i + 1], terminated[lost[i]] or 0
end
return reply
