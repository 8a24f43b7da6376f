-- Ends the attempt of a nacked job, for nack.lua and nack_many.lua. A nack is a list with these positions:
--   WORKER      worker id, '' when the caller names none
--   LEASE       lease id, '' when the caller names none
--   ACTION      'fail': record a failure
--               'requeue', 'release': make the job available again, with or without counting the attempt
--   ERROR       JSON object of the error without its closing brace
--   DECISION    '1': the error allows a retry; '0': it does not
--               'discard', 'dead_letter': so ends the job; 'snooze': it runs later, without counting the attempt
--   RANDOM      random number for the jitter of the backoff, in [0, 1)
--   HOLD_UNTIL  ms before which no job of the rate limit key may start, '' for none
--   GROUP       type and message of the error's group (see error_groups.lua)
--   DELAY       ms until the next attempt, '' for the backoff of the job's policy
--   NAMES       the first of the error's names, by which a retry policy may refuse a retry (type, code, class)
--@include uncount_queue_starts undo_attempt
local WORKER, LEASE, ACTION, ERROR, DECISION, RANDOM, HOLD_UNTIL, GROUP, DELAY, NAMES = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10

-- Returns the reply of a nack that changes nothing, or nil when the attempt can end. An accepted nack ends a
-- lease. A later nack that names the same lease is a repetition, and gets the job again.
local function early_nack_reply(job, nack)
    if job[F.state] ~= 'active' then
        local repeated = nack[LEASE] ~= '' and nack[LEASE] == job[F.lease]
            and job[F.state] ~= 'completed' and (job[F.state] ~= 'cancelled' or job[F.cancelled_keep_ms])
        return repeated and {'ok', job.field_list} or {'conflict', job[F.state]}
    end
    if not is_holder(job, nack[WORKER], nack[LEASE]) then return {'not_holder'} end
end

-- Returns what follows the failure of a nack: 'retry', 'discard', 'dead_letter' or 'snooze'.
local function decide_nack(job, nack)
    local decision = nack[DECISION]
    if decision == 'snooze' then return decision end
    local retryable = decision == '1' and not is_non_retryable(job[F.non_retryable], nack, NAMES)
    return decide_failure(job, retryable, decision ~= '1' and decision ~= '0' and decision)
end

-- Reads the keys that `end_attempt` may touch. `ending`: pairs of a job and its nack. `dead_letter_max`: dead
-- letters kept per queue.
local function preflight_nacks(ending, dead_letter_max)
    local failures = {}
    for _, pair in ipairs(ending) do
        local job, nack = pair[1], pair[2]
        if nack[ACTION] == 'fail' then
            failures[#failures + 1] = {job, decide_nack(job, nack)}
        else
            preflight_key(queue_counters_key(job[F.queue]))
            preflight_key(queue_available_key(job[F.queue]))
        end
    end
    preflight_failures(failures, dead_letter_max)
end

-- Ends the attempt as the nack says, and returns the reply. `retention`: see exhaust in fail_attempt.lua.
local function end_attempt(id, key, job, nack, errors_kept, retention)
    local released = nack[ACTION] == 'release'
    release_from_worker(id, job, nack[HOLD_UNTIL], released)
    if released then uncount_queue_start(job) elseif job[F.suspect] then drop_fields(key, job, F.suspect) end
    if nack[ACTION] == 'fail' then
        if job[F.delay] then drop_fields(key, job, F.delay) end
        local outcome, delay = decide_nack(job, nack), tonumber(nack[DELAY])
        if outcome == 'snooze' then snooze(id, key, job, delay or 0, nack[ERROR])
        else
            fail(id, key, job, nack[ERROR], nack[GROUP], outcome, tonumber(nack[RANDOM]), errors_kept, retention, delay)
        end
        return {'ok', job.field_list}
    end
    if job[F.cancelled_keep_ms] then
        finish_cancel_requested(id, key, job)
        return {'ok', job.field_list}
    end
    if released then
        undo_attempt(key, job)
    else
        record_history(key, job, 'requeued', attempt_members(job))
        save_job(key, job, F.state, 'available', F.enqueued, now)
    end
    make_available(id, job, released)
    if not released then emit('job.enqueued', id, job, 'f', 'active') end
    return {'ok', job.field_list}
end
