-- What a nack does to a job, alone or among many. A nack is a list: worker id or '', lease id or '',
-- 'fail' | 'requeue' | 'release', error JSON without its closing brace, verdict, chance for the
-- jitter, ms until which nothing of the job's rate limit key is to start or '', and then the names
-- the error goes by (type, code, class). Verdict: '1' when the error allows a retry, '0' when not,
-- 'discard' | 'dead_letter' when the handler has decided the job's end.
local WORKER, LEASE, HOW, ERROR, VERDICT, CHANCE, HOLD, NAMES = 1, 2, 3, 4, 5, 6, 7, 8

-- The answer when there is nothing to do, nil when the attempt is to end. A holder's lease id
-- repeating the nack it already made changes nothing.
local function answer_to_nack(job, nack)
    if job[F.state] ~= 'active' then
        local repeated = nack[LEASE] ~= '' and nack[LEASE] == job[F.lease]
            and job[F.state] ~= 'completed' and (job[F.state] ~= 'cancelled' or job[F.spared])
        return repeated and {'ok', job.flat} or {'conflict', job[F.state]}
    end
    if not is_holder(job, nack[WORKER], nack[LEASE]) then return {'not_holder'} end
end

local function decided(nack)
    local verdict = nack[VERDICT]
    return (verdict == 'discard' or verdict == 'dead_letter') and verdict
end

local function may_retry(job, nack)
    return nack[VERDICT] == '1' and not never_retried(job[F.non_retryable], nack, NAMES)
end

-- Looks at what may be touched. `ending`: pairs of a job and its nack; `most`: dead letters kept.
local function look_at_nacks(ending, most)
    local deaths = {}
    for _, pair in ipairs(ending) do
        local job, nack = pair[1], pair[2]
        local queue = job[F.queue]
        want(queue_key(queue))
        want(nack[HOW] == 'fail' and minutes_key(queue) or available_key(queue))
        if nack[HOW] == 'fail' and is_last(job, may_retry(job, nack))
            and (decided(nack) or job[F.on_exhaustion]) == 'dead_letter' then
            deaths[queue] = (deaths[queue] or 0) + 1
        end
    end
    look()
    for queue, coming in pairs(deaths) do look_at_graves(queue, coming, most) end
end

-- `kept`: errors kept; `limits`: see exhaust.
local function end_attempt(id, key, job, nack, kept, limits)
    leave_worker(id, job, nack[HOLD])
    if nack[HOW] == 'fail' then
        if job[F.delay] then drop_fields(key, job, F.delay) end
        local retryable = may_retry(job, nack)
        if decided(nack) then save_job(key, job, F.on_exhaustion, decided(nack)) end
        fail(id, key, job, nack[ERROR], retryable, tonumber(nack[CHANCE]), kept, limits)
        return {'ok', job.flat}
    end
    if job[F.spared] then
        end_spared(id, key, job)
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
