-- Ends the attempt of a nacked job, for the scripts of one nack and of many. A nack is a list: worker id or
-- '', lease id or '', 'fail' | 'requeue' | 'release', error JSON without its closing brace, decision, random
-- number for the jitter, time in ms until which no job of the rate limit key may start or '', and then the
-- names of the error (type, code, class). Decision: '1' when the error allows a retry, '0' when not,
-- 'discard' | 'dead_letter' when the handler has decided how the job ends.
local WORKER, LEASE, ACTION, ERROR, DECISION, RANDOM, HOLD_UNTIL, NAMES = 1, 2, 3, 4, 5, 6, 7, 8

-- Returns the reply of a nack that changes nothing, or nil when the attempt can end. A nack that repeats an
-- accepted one of the same lease changes nothing.
local function early_nack_reply(job, nack)
    if job[F.state] ~= 'active' then
        local repeated = nack[LEASE] ~= '' and nack[LEASE] == job[F.lease]
            and job[F.state] ~= 'completed' and (job[F.state] ~= 'cancelled' or job[F.cancel_requested])
        return repeated and {'ok', job.flat} or {'conflict', job[F.state]}
    end
    if not is_holder(job, nack[WORKER], nack[LEASE]) then return {'not_holder'} end
end

local function decide_nack(job, nack)
    local decision = nack[DECISION]
    local retryable = decision == '1' and not is_non_retryable(job[F.non_retryable], nack, NAMES)
    return decide_failure(job, retryable, decision ~= '1' and decision ~= '0' and decision)
end

-- Reads the keys that ending these attempts may touch. `ending`: pairs of a job and its nack;
-- `dead_letter_max`: dead letters kept.
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

-- `limits`: see exhaust.
local function end_attempt(id, key, job, nack, errors_kept, limits)
    release_from_worker(id, job, nack[HOLD_UNTIL])
    if nack[ACTION] == 'fail' then
        if job[F.delay] then drop_fields(key, job, F.delay) end
        local outcome = decide_nack(job, nack)
        fail(id, key, job, nack[ERROR], outcome, tonumber(nack[RANDOM]), errors_kept, limits)
        return {'ok', job.flat}
    end
    if job[F.cancel_requested] then
        finish_cancel_requested(id, key, job)
        return {'ok', job.flat}
    end
    if nack[ACTION] == 'release' then
        save_job(key, job, F.state, 'available', F.attempt, job[F.attempt] - 1)
        if job[F.attempt] == '0' then drop_fields(key, job, F.started) end
    else
        save_job(key, job, F.state, 'available', F.enqueued, now)
    end
    make_available(id, job, nack[ACTION] == 'release')
    if nack[ACTION] == 'requeue' then emit('job.enqueued', id, job) end
    return {'ok', job.flat}
end
