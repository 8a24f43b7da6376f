-- What a nack does to a job, alone or among many. A nack is a list: worker id or '', lease id or '',
-- 'fail' | 'requeue' | 'release', error JSON without its closing brace, verdict, chance for the
-- jitter, ms until which nothing of the job's rate limit key is to start or '', and then the names
-- the error goes by (type, code, class). Verdict: '1' when the error allows a retry, '0' when not,
-- 'discard' | 'dead_letter' when the handler has decided the job's end.
local WORKER, LEASE, HOW, ERROR, VERDICT, CHANCE, HOLD, NAMES = 1, 2, 3, 4, 5, 6, 7, 8

-- The answer when there is nothing to do, nil when the attempt is to end. A holder's lease id
-- repeating the nack it already made changes nothing.
local function early_nack_reply(job, nack)
    if job[F.state] ~= 'active' then
        local repeated = nack[LEASE] ~= '' and nack[LEASE] == job[F.lease]
            and job[F.state] ~= 'completed' and (job[F.state] ~= 'cancelled' or job[F.cancel_requested])
        return repeated and {'ok', job.flat} or {'conflict', job[F.state]}
    end
    if not is_holder(job, nack[WORKER], nack[LEASE]) then return {'not_holder'} end
end

local function decide_nack(job, nack)
    local verdict = nack[VERDICT]
    local retryable = verdict == '1' and not is_non_retryable(job[F.non_retryable], nack, NAMES)
    return decide_failure(job, retryable, verdict ~= '1' and verdict ~= '0' and verdict)
end

-- Looks at what may be touched. `ending`: pairs of a job and its nack; `most`: dead letters kept.
local function preflight_nacks(ending, most)
    local ends = {}
    for _, pair in ipairs(ending) do
        local job, nack = pair[1], pair[2]
        if nack[HOW] == 'fail' then
            ends[#ends + 1] = {job, decide_nack(job, nack)}
        else
            preflight_key(queue_counters_key(job[F.queue]))
            preflight_key(queue_available_key(job[F.queue]))
        end
    end
    preflight_failures(ends, most)
end

-- `kept`: errors kept; `limits`: see exhaust.
local function end_attempt(id, key, job, nack, kept, limits)
    release_from_worker(id, job, nack[HOLD])
    if nack[HOW] == 'fail' then
        if job[F.delay] then drop_fields(key, job, F.delay) end
        local fate = decide_nack(job, nack)
        fail(id, key, job, nack[ERROR], fate, tonumber(nack[CHANCE]), kept, limits)
        return {'ok', job.flat}
    end
    if job[F.cancel_requested] then
        finish_cancel_requested(id, key, job)
        return {'ok', job.flat}
    end
    if nack[HOW] == 'release' then
        save_job(key, job, F.state, 'available', F.attempt, job[F.attempt] - 1)
        if job[F.attempt] == '0' then drop_fields(key, job, F.started) end
    else
        save_job(key, job, F.state, 'available', F.enqueued, now)
    end
    make_available(id, job, nack[HOW] == 'release')
    if nack[HOW] == 'requeue' then emit('job.enqueued', id, job) end
    return {'ok', job.flat}
end
