-- Transition: active -> available | discarded | cancelled (after a cancel request), for jobs of workers that died.
-- Pre:  the lease was granted or last extended before its worker's death. A worker that came back keeps the
--       jobs that it has fetched or extended since.
-- Post: no dead worker holds any of the active jobs that this call has read. Each is a suspect (worker_death.lua).
-- Memory: allow-oom; per job 2.5 KiB.
-- KEYS: 1 active, 2 execution_deadlines, 3 expiring, 4 due, 5 finished, 6 dead, 7 events.
-- ARGV: 1 events kept, 2 cursor ('' for the first call), 3 maximum number of active jobs to read, 4 errors kept
--       per job, 5 retention of discarded jobs (ms), 6 retention of dead letters (ms), 7 maximum number of dead
--       letters per queue, 8 the server's on_exhaustion, 9 entries of history kept, 10 OJS_LONE_DEATHS, then per dead worker:
--       id, time of its death by the clock of its record's master (ms), time since its death (ms), or '' when unknown.
-- Returns: {next cursor ('' at the end), effects, isolations that the caller ends (worker, time, worker, ...), then per
--           recovered job the id of its worker}
--@include keys now preflight remove_many read_job change_counters append_event set_deadline
--@include append_effect make_available finish_job remove_from_queue backoff_delay match_error
--@include decide_failure cap_dead_letters error_groups fail_attempt walk_active worker_death
begin_events(ARGV[1])
local cursor, limit, errors_kept = ARGV[2], ARGV[3], tonumber(ARGV[4])
local retention, max_lone, died = {ARGV[5], ARGV[6], tonumber(ARGV[7])}, tonumber(ARGV[10]), {}
set_server_exhaustion(ARGV[8])
set_history(ARGV[9])
for i = 11, #ARGV, 3 do
    local id, dead_ms, dead_for_ms = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]) or 0
    -- `dead_ms` may be in the future by the clock of this master.
    died[id] = math.min(dead_ms, now - dead_for_ms)
end
local names = {F.started, F.worker, F.extended}
local lost, next_cursor = walk_active(cursor, limit, names, function(found)
    local started, worker, extended = tonumber(found[1]) or 0, found[2], tonumber(found[3]) or 0
    return died[worker] and math.max(started, extended) <= died[worker]
end)
local held = {} -- worker -> number of its jobs
for _, item in ipairs(lost) do held[item.job[F.worker]] = (held[item.job[F.worker]] or 0) + 1 end
local decisions = {}
for i, item in ipairs(lost) do
    local decision, message = decide_death(item.job, held[item.job[F.worker]], max_lone)
    decisions[i], item.message = {item.job, decision}, message
    preflight_key(queue_available_key(item.job[F.queue]))
end
preflight_failures(decisions, retention[3])

local reply = {next_cursor, effects, lost_isolations}
batch_events()
for _, item in ipairs(lost) do
    reply[#reply + 1] = item.job[F.worker]
    item.error, item.group = server_error('worker_lost', item.message)
    record_lost_lease(item.id, job_key(item.id), item.job, item.error, item.group, errors_kept)
end
for i, item in ipairs(lost) do
    record_death(job_key(item.id), item.job)
    settle_lost_lease(item.id, job_key(item.id), item.job, item.error, decisions[i][2], retention)
end
flush_events()
flush_removals()
flush_counters()
flush_error_groups()
return reply
