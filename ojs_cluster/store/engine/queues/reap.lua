-- Transitions of one shard whose time has come, up to `limit` of each kind:
--   execution timeout passed:   active -> retryable | discarded (no attempt left, or not retryable)
--   visibility deadline passed: active -> available | discarded (likewise)
--   either, with a cancel request: active -> cancelled
--   expires_at passed:          available | scheduled | retryable | pending -> discarded
-- A lease that ended because its worker has died makes the job a suspect (worker_death.lua).
-- A malformed job stays in its index, and is checked again in an hour. A job that a fetch has quarantined and that is
-- valid again returns to its queue, unless it is parked.
-- Post: of each index, the first overdue entries are removed, up to the limit, except those of malformed jobs,
--       those of `expiring` whose attempt has ended here, and leases of workers of which the caller does not say whether
--       they have died. Further entries are left to the next call, which is due at
--       the ms returned.
-- Memory: allow-oom; per job 2.5 KiB.
-- KEYS: 1 active, 2 execution_deadlines, 3 expiring, 4 due, 5 pending, 6 finished, 7 dead, 8 events,
--       9 quarantine. They are declared only: keys.lua names them.
-- ARGV: 1 events kept, 2 limit, 3 random number in [0, 1) for the jitter, 4 errors kept, 5 ms to keep discarded
--       jobs, 6 ms to keep dead letters, 7 dead letters kept per queue, 8 OJS_ON_EXHAUSTION, 9 entries of
--       history kept, 10 OJS_LONE_DEATHS, then per worker: id, '1' if it has died, '0' if not.
-- Returns: {number of jobs that lost their lease, number of overdue entries of execution_deadlines that were read, and
--           of expiring, now, ms of the next deadline or -1, effects, ids of malformed jobs, workers whose leases are left}
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
local max_lone, has_died = tonumber(ARGV[10]), {} -- has_died: worker -> '1' or '0'
for i = 11, #ARGV, 2 do has_died[ARGV[i]] = ARGV[i + 1] end

local jobs = {} -- id -> job, false if it is missing or malformed
local malformed = {} -- id -> true
local rechecked = {} -- pairs of an index and the id of a malformed job in it

-- Loads the first jobs of an index whose time has passed, and returns their ids. Malformed jobs are added to
-- `rechecked` instead.
local function load_overdue(zset)
    local ids = {}
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', zset, '-inf', now, 'LIMIT', 0, limit)) do
        if jobs[id] == nil then
            local job, reply = load_within_budget(job_key(id))
            jobs[id], malformed[id] = job or false, is_malformed(reply)
        end
        if malformed[id] then
            rechecked[#rechecked + 1] = {zset, id}
        else
            ids[#ids + 1] = id
        end
    end
    return ids
end

-- 1. Read all jobs whose time has passed, and decide what happens to those whose attempt ends.
local timeouts, lost, expired = load_overdue(EXECUTION_DEADLINES), load_overdue(ACTIVE), load_overdue(EXPIRING)
local repaired = load_overdue(QUARANTINE) -- these jobs are valid again
if #repaired > 0 then
    preflight_key(OUTBOX)
    preflight_key(OUTBOX_DUE)
end
for _, job in pairs(jobs) do
    if job then
        preflight_key(queue_counters_key(job[F.queue]))
        preflight_key(queue_available_key(job[F.queue]))
    end
end
local decisions = {} -- id -> decision (see decide_failure.lua)
local ends = {} -- pairs of a job and its decision
local function decide_ends(ids, error_type)
    for _, id in ipairs(ids) do
        local job = jobs[id]
        if job and job[F.state] == 'active' and not decisions[id] then
            decisions[id] = decide_lost_lease(job, error_type)
            ends[#ends + 1] = {job, decisions[id]}
        end
    end
end
decide_ends(timeouts, 'timeout')

-- Leases of workers that have died, and of those about which the caller is asked. `lost` keeps the others.
local held, deaths, unknown, asked, others = {}, {}, {}, {}, {}
for _, id in ipairs(lost) do
    local job = jobs[id]
    local worker = job and job[F.state] == 'active' and not decisions[id] and job[F.worker] or ''
    if worker ~= '' and not has_died[worker] then
        if not asked[worker] then unknown[#unknown + 1] = worker end
        asked[worker] = true
    else
        others[#others + 1] = id
        if has_died[worker] == '1' then
            deaths[id], held[worker] = worker, (held[worker] or 0) + 1
        end
    end
end
lost = others
for id, worker in pairs(deaths) do
    local decision, message = decide_death(jobs[id], held[worker], max_lone)
    decisions[id], deaths[id] = decision, message
    ends[#ends + 1] = {jobs[id], decision}
end
decide_ends(lost, 'visibility_timeout')
preflight_failures(ends, max_dead_letters)

-- 2. Plan the next check of malformed jobs. This is the first write: no job is loaded from here on.
local malformed_ids = {}
for i, entry in ipairs(rechecked) do
    local zset, id = unpack(entry)
    recheck_later(zset, id)
    malformed_ids[i] = id
end

-- 3. End the attempts that took too long.
for i, id in ipairs(timeouts) do
    remove_member(EXECUTION_DEADLINES, id)
    local key, job = job_key(id), jobs[id]
    if job and job[F.state] == 'active' then
        release_from_worker(id, job)
        drop_fields(key, job, F.delay, F.lease) -- see `fail` and record_lost_lease for the reasons
        local limit_ms = job[F.timeout] or 0
        local error, group = server_error('timeout', 'execution timeout of ' .. limit_ms .. ' ms exceeded',
            string.format(',"details":{"timeout_kind":"execution","limit_seconds":%.3f,'
                .. '"elapsed_seconds":%.3f}', limit_ms / 1000, (now - job[F.started]) / 1000))
        local jitter = (random_number * i) % 1 -- another one for each job
        fail(id, key, job, error, group, decisions[id], jitter, errors_kept, retention)
    end
end

-- 4. End the leases that were not extended. A job whose attempt has just ended is no longer active.
local lost_ids, errors = {}, {} -- errors: id -> error
local late, late_group = server_error('visibility_timeout', 'the lease ended without ack, nack or heartbeat')
for _, id in ipairs(lost) do
    remove_member(ACTIVE, id)
    local job = jobs[id]
    if job and job[F.state] == 'active' then
        lost_ids[#lost_ids + 1] = id
        local error, group = late, late_group
        if deaths[id] then error, group = server_error('worker_lost', deaths[id]) end
        errors[id] = error
        record_lost_lease(id, job_key(id), job, error, group, errors_kept)
    end
end
for _, id in ipairs(lost_ids) do
    if deaths[id] then record_death(job_key(id), jobs[id]) end
    settle_lost_lease(id, job_key(id), jobs[id], errors[id], decisions[id], retention)
end

-- 5. Discard expired jobs. A job whose attempt has just ended is left out, because its entry is new: if it has expired,
-- fetches leave it out, and the next call, which is due at once, discards it.
for _, id in ipairs(expired) do
    local job = jobs[id]
    local state = job and not decisions[id] and job[F.expires] and job[F.state]
    if not decisions[id] then remove_member(EXPIRING, id) end
    if state == 'available' then
        remove_from_queue(id, job)
        expire(id, job_key(id), job, keep_discarded_ms)
    elseif state == 'scheduled' or state == 'retryable' or state == 'pending' then
        count_job(job, state, -1)
        remove_member(state == 'pending' and PENDING or DUE, id)
        expire(id, job_key(id), job, keep_discarded_ms)
    end
end

-- 6. Return repaired jobs to their queues. A parked job stays parked, and is checked again (see leave_parked.lua).
for _, id in ipairs(repaired) do
    local job = jobs[id]
    local is_available = job and job[F.state] == 'available'
    if is_available and job[F.parked] and redis.call('ZSCORE', queue_blocked_key(job[F.queue]), id) then
        redis.call('ZADD', QUARANTINE, now + PARKED_CHECK_MS, id)
    elseif is_available then
        if job[F.parked] then leave_parked(id, job) else remove_member(QUARANTINE, id) end
        if job[F.tenant] then count_for_tenant(job, 'available', -1) end -- it had left its queue only
        announce_queue(job[F.queue])
        make_available(id, job, true)
    else
        remove_member(QUARANTINE, id)
    end
end

-- 7. Write what was collected for all jobs.
local next_deadline = -1
for _, zset in ipairs({ACTIVE, EXECUTION_DEADLINES, EXPIRING, QUARANTINE}) do
    local first = lowest_remaining(zset)
    if first and (next_deadline < 0 or first < next_deadline) then next_deadline = first end
end
flush_events()
flush_removals()
flush_error_groups()
flush_counters()
return {#lost_ids, #timeouts, #expired, now, next_deadline, effects, malformed_ids, unknown}
