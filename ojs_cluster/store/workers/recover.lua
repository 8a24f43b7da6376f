-- Transition: active -> available | discarded, for jobs of workers that died.
-- Pre:  the lease was last given or extended before its worker's death: a worker that came back keeps
--       the jobs it has fetched since.
-- Post: of the active jobs that the call has walked through, none is held by a dead worker.
-- Memory: allow-oom; per job 1.5 KiB.
-- KEYS: 1 active, 2 execution_deadlines, 3 expiring, 4 due, 5 finished, 6 dead, 7 events.
-- ARGV: 1 events kept, 2 cursor ('' to begin), 3 active jobs to walk through, 4 errors kept,
--       5 ms to keep discarded, 6 ms to keep dead letters, 7 dead letters kept per queue,
--       8 the server's on_exhaustion,
--       then per dead worker: id, ms of its death by the clock of its record's master, and how many ms
--       ago that was, '' when unknown. The earlier of the two counts: this master's clock may be behind.
-- Returns: {next cursor or '', effects, then the worker of each job that was recovered}
--@include keys now preflight remove_many read_job change_counters append_event set_deadline
--@include append_effect make_available finish_job remove_from_queue backoff_delay match_error
--@include decide_failure cap_dead_letters fail_attempt walk_active
local cursor, limit, errors_kept = ARGV[2], ARGV[3], tonumber(ARGV[4])
local limits, died = {ARGV[5], ARGV[6], tonumber(ARGV[7])}, {}
server_exhaustion = ARGV[8]
for i = 9, #ARGV, 3 do
    local id, at_ms, ago_ms = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]) or 0
    died[id] = math.min(at_ms, now - ago_ms)
end
local names = {F.started, F.worker, F.extended}
local lost, next_cursor = walk_active(cursor, limit, names, function(found)
    local started, worker, extended = tonumber(found[1]) or 0, found[2], tonumber(found[3]) or 0
    return died[worker] and math.max(started, extended) <= died[worker]
end)
local ends = {}
for i, item in ipairs(lost) do
    ends[i] = {item.job, decide_lost_lease(item.job, 'worker_lost')}
    preflight_key(queue_available_key(item.job[F.queue]))
end
preflight_failures(ends, limits[3])

local error = server_error('worker_lost', 'the worker stopped sending heartbeats')
local reply = {next_cursor, effects}
batch_events()
for _, item in ipairs(lost) do
    reply[#reply + 1] = item.job[F.worker]
    record_lost_lease(item.id, job_key(item.id), item.job, error, errors_kept)
end
for i, item in ipairs(lost) do
    requeue_after_lost_lease(item.id, job_key(item.id), item.job, error, ends[i][2], limits)
end
flush_events()
flush_removals()
flush_counters()
return reply
