-- Transition: active -> available | discarded, for jobs of workers that died.
-- Pre:  the lease was last given or extended before its worker's death: a worker that came back keeps
--       what it has taken since.
-- Post: of the active jobs that the call has walked through, none is held by a dead worker.
-- Memory: allow-oom; per job 1.5 KiB.
-- KEYS: 1..7 the shard's act, run, exp, due, fin, dead, ev.
-- ARGV: 1 events kept, 2 cursor ('' to begin), 3 active jobs to walk through, 4 errors kept,
--       5 ms to keep discarded, 6 ms to keep dead letters, 7 dead letters kept per queue,
--       then per dead worker: id, ms of its death by the clock of its record's master, and how many ms
--       ago that was, '' when unknown. Of the two the earlier counts: this master's clock may be behind.
-- Returns: {next cursor or '', effects, then the worker of each job that was recovered}
--@include keys now preflight remove_many read_job change_counters append_event set_deadline
--@include append_effect make_available finish_job remove_from_queue backoff_delay match_error
--@include decide_failure cap_dead_letters fail_attempt walk_active
local limits, died = {ARGV[5], ARGV[6], tonumber(ARGV[7])}, {}
for i = 8, #ARGV, 3 do
    died[ARGV[i]] = math.min(tonumber(ARGV[i + 1]), now - (tonumber(ARGV[i + 2]) or 0))
end
local names = {F.started, F.worker, F.extended}
local taken, cursor = walk_active(ARGV[2], ARGV[3], names, function(found)
    local since = math.max(tonumber(found[1]) or 0, tonumber(found[3]) or 0)
    return died[found[2]] and since <= died[found[2]]
end)
local ends = {}
for i, item in ipairs(taken) do
    ends[i] = {item.job, decide_lost_lease(item.job, 'worker_lost')}
    preflight_key(queue_available_key(item.job[F.queue]))
end
preflight_failures(ends, limits[3])

local error, reply = server_error('worker_lost', 'the worker stopped sending heartbeats'), {cursor, effects}
batch_events()
for _, item in ipairs(taken) do
    reply[#reply + 1] = item.job[F.worker]
    record_lost_lease(item.id, job_key(item.id), item.job, error, tonumber(ARGV[4]))
end
for i, item in ipairs(taken) do
    requeue_after_lost_lease(item.id, job_key(item.id), item.job, error, ends[i][2], limits)
end
flush_events()
flush_removals()
flush_counters()
return reply
