-- Transitions of one shard whose time has come, up to `limit` of each kind:
--   execution timeout passed:   active -> retryable | discarded (no attempt left, or not retryable)
--   visibility deadline passed: active -> available | discarded (likewise)
--   either, with a cancel request: active -> cancelled
--   expires_at passed:          available | scheduled | retryable | pending -> discarded
--   quarantined and valid again: available -> available, at the front of the queue; a parked job stays parked
-- A lease that ended because its worker has died makes the job a suspect (worker_death.lua).
-- Post: the overdue entries that were read have left their index. Four kinds stay: those of malformed jobs, which are
--       checked again in an hour; leases of workers that the caller does not name; in `expiring` those of jobs
--       whose attempt ends here; and parked jobs in `quarantine`. What stays, or is beyond the limit, is left to the
--       next call, which is due at the returned time.
-- Memory: allow-oom; per job 2.5 KiB.
-- KEYS: 1 active, 2 execution_deadlines, 3 expiring, 4 due, 5 pending, 6 finished, 7 dead, 8 events,
--       9 quarantine. They are declared only: keys.lua names them.
-- ARGV: 1 events kept, 2 limit, 3 random number in [0, 1) for the jitter, 4 errors kept, 5 ms to keep discarded
--       jobs, 6 ms to keep dead letters, 7 dead letters kept per queue, 8 OJS_ON_EXHAUSTION, 9 entries of
--       history kept, 10 OJS_LONE_DEATHS, then per worker: id, '1' if it has died, '0' if not.
-- Returns: {number of jobs that lost their lease, number of overdue entries of execution_deadlines that were read,
--           number of those of expiring, now, ms of the next deadline or -1, effects, ids of malformed jobs,
--           workers that the caller must name, because they hold leases that have ended,
--           isolations that the caller ends: worker, time, worker, ...}
--@include keys now preflight remove_many lowest_remaining load_jobs change_counters append_event set_deadline
--@include append_effect make_available announce_queue finish_job remove_from_queue backoff_delay match_error
--@include decide_failure cap_dead_letters error_groups fail_attempt worker_death
local limit, random_number, errors_kept = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local keep_discarded_ms, keep_dead_ms, max_dead_letters = ARGV[5], ARGV[6], tonumber(ARGV[7])
local retention = {keep_discarded_ms, keep_dead_ms, max_dead_letters} -- see fail_attempt.lua
set_server_exhaustion(ARGV[8])
set_history(ARGV[9])
begin_events(ARGV[1])
batch_events()
local max_lone = tonumber(ARGV[10])
local death_of = {} -- worker -> '1' if it has died, '0' if not, nil if the caller does not know
for i = 11, #ARGV, 2 do death_of[ARGV[i]] = ARGV[i + 1] end

-- 1. Read all jobs whose time has passed.
local jobs = {} -- id -> job, false if it is missing or malformed
local is_malformed_id = {} -- id -> whether the job is malformed
local malformed_entries = {} -- pairs of an index and the id of a malformed job in it

-- Returns the ids of the first entries of an index whose time has passed, and loads their jobs. Entries of malformed
-- jobs are added to `malformed_entries` instead.
local function load_overdue(zset)
    local ids = {}
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', zset, '-inf', now, 'LIMIT', 0, limit)) do
        if jobs[id] == nil then
            local job, reply = load_within_budget(job_key(id))
            jobs[id], is_malformed_id[id] = job or false, is_malformed(reply)
        end
        if is_malformed_id[id] then
            malformed_entries[#malformed_entries + 1] = {zset, id}
        else
            ids[#ids + 1] = id
        end
    end
    return ids
end
local timed_out, overdue_leases = load_overdue(EXECUTION_DEADLINES), load_overdue(ACTIVE)
local expired, repaired = load_overdue(EXPIRING), load_overdue(QUARANTINE)

-- 2. Decide what happens to the jobs whose attempt ends.
local decisions = {} -- id -> decision (decide_failure.lua) about a job whose attempt ends here
local failures = {} -- pairs of such a job and its decision

-- Returns whether the job is active, and nothing has ended its attempt.
local function is_running(id)
    return jobs[id] and jobs[id][F.state] == 'active' and not decisions[id]
end

local function end_attempt(id, decision)
    decisions[id] = decision
    failures[#failures + 1] = {jobs[id], decision}
end

for _, id in ipairs(timed_out) do
    if is_running(id) then end_attempt(id, decide_lost_lease(jobs[id], 'timeout')) end
end
-- A lease that has ended counts otherwise if its worker has died, so leases of workers that the caller does not name
-- are left.
local unnamed_workers, is_unnamed = {}, {} -- a list, and worker -> true
local ended_leases = {} -- ids of `overdue_leases` that are not left
local orphans = {} -- ids of these whose worker has died
local held = {} -- worker -> number of its orphans: one of several jobs has killed it
for _, id in ipairs(overdue_leases) do
    local worker = is_running(id) and jobs[id][F.worker] or ''
    if worker ~= '' and not death_of[worker] then
        if not is_unnamed[worker] then unnamed_workers[#unnamed_workers + 1] = worker end
        is_unnamed[worker] = true
    else
        ended_leases[#ended_leases + 1] = id
        if death_of[worker] == '1' then
            orphans[#orphans + 1] = id
            held[worker] = (held[worker] or 0) + 1
        end
    end
end
local death_messages = {} -- id of an orphan -> message of its error
for _, id in ipairs(orphans) do
    local decision, message = decide_death(jobs[id], held[jobs[id][F.worker]], max_lone)
    death_messages[id] = message
    end_attempt(id, decision)
end
for _, id in ipairs(ended_leases) do
    if is_running(id) then end_attempt(id, decide_lost_lease(jobs[id], 'visibility_timeout')) end
end

-- 3. Read the other keys that the writes touch.
for _, job in pairs(jobs) do
    if job then
        preflight_key(queue_counters_key(job[F.queue]))
        preflight_key(queue_available_key(job[F.queue]))
    end
end
if repaired[1] then -- for announce_queue
    preflight_key(OUTBOX)
    preflight_key(OUTBOX_DUE)
end
preflight_failures(failures, max_dead_letters)

-- 4. Plan the next check of malformed jobs. This is the first write: no job is loaded from here on.
local malformed_ids = {} -- once for each entry
for i, entry in ipairs(malformed_entries) do
    local zset, id = unpack(entry)
    recheck_later(zset, id)
    malformed_ids[i] = id
end

-- 5. End the attempts that took too long.
for i, id in ipairs(timed_out) do
    remove_member(EXECUTION_DEADLINES, id)
    local key, job = job_key(id), jobs[id]
    if job and job[F.state] == 'active' then
        release_from_worker(id, job)
        -- The delay is that of an earlier retry. With the lease id, a late nack would seem to repeat an accepted one.
        drop_fields(key, job, F.delay, F.lease)
        local limit_ms = job[F.timeout] or 0
        local error, group = server_error('timeout', 'execution timeout of ' .. limit_ms .. ' ms exceeded',
            string.format(',"details":{"timeout_kind":"execution","limit_seconds":%.3f,'
                .. '"elapsed_seconds":%.3f}', limit_ms / 1000, (now - job[F.started]) / 1000))
        local jitter = (random_number * i) % 1 -- another one for each job
        fail(id, key, job, error, group, decisions[id], jitter, errors_kept, retention)
    end
end

-- 6. End the leases that were not extended. fail_attempt.lua explains why all failures are recorded first.
local lost = {} -- ids of the jobs that lose their lease
local errors = {} -- id of such a job -> its error
local late_error, late_group = server_error('visibility_timeout', 'the lease ended without ack, nack or heartbeat')
for _, id in ipairs(ended_leases) do
    remove_member(ACTIVE, id)
    local job = jobs[id]
    if job and job[F.state] == 'active' then -- it has not timed out
        lost[#lost + 1] = id
        local error, group = late_error, late_group
        if death_messages[id] then error, group = server_error('worker_lost', death_messages[id]) end
        errors[id] = error
        record_lost_lease(id, job_key(id), job, error, group, errors_kept)
    end
end
for _, id in ipairs(lost) do
    -- Saves what decide_death has left in job.death above, while the job is in no index yet.
    if death_messages[id] then record_death(job_key(id), jobs[id]) end
    settle_lost_lease(id, job_key(id), jobs[id], errors[id], decisions[id], retention)
end

-- 7. Discard expired jobs. A job whose attempt has ended here is left out, because its entry is new. If it has expired,
-- fetches leave it out, and the next call, which is due at once, discards it.
for _, id in ipairs(expired) do
    if not decisions[id] then
        remove_member(EXPIRING, id)
        local job = jobs[id]
        local state = job and job[F.expires] and job[F.state]
        if state == 'available' then
            remove_from_queue(id, job)
            expire(id, job_key(id), job, keep_discarded_ms)
        elseif state == 'scheduled' or state == 'retryable' or state == 'pending' then
            count_job(job, state, -1)
            remove_member(state == 'pending' and PENDING or DUE, id)
            expire(id, job_key(id), job, keep_discarded_ms)
        end
    end
end

-- 8. Return repaired jobs to their queues. A parked job stays parked, and is checked again (see leave_parked.lua).
for _, id in ipairs(repaired) do
    local job = jobs[id]
    local is_available = job and job[F.state] == 'available'
    if is_available and job[F.parked] and redis.call('ZSCORE', queue_blocked_key(job[F.queue]), id) then
        redis.call('ZADD', QUARANTINE, now + PARKED_CHECK_MS, id)
    elseif is_available then
        if job[F.parked] then leave_parked(id, job) else remove_member(QUARANTINE, id) end
        -- The job was removed from its queue only. So its tenant still counts it, and make_available counts it again.
        if job[F.tenant] then count_for_tenant(job, 'available', -1) end
        announce_queue(job[F.queue])
        make_available(id, job, true)
    else
        remove_member(QUARANTINE, id)
    end
end

-- 9. Write what was collected for all jobs.
local next_deadline = -1
for _, zset in ipairs({ACTIVE, EXECUTION_DEADLINES, EXPIRING, QUARANTINE}) do
    local first = lowest_remaining(zset)
    if first and (next_deadline < 0 or first < next_deadline) then next_deadline = first end
end
flush_events()
flush_removals()
flush_error_groups()
flush_counters()
return {#lost, #timed_out, #expired, now, next_deadline, effects, malformed_ids, unnamed_workers,
    lost_isolations}
