-- Ends a failed attempt: the error is recorded, and the job is retried later, discarded or dead-lettered.
-- error: a JSON object without its closing brace. Attempt and time are stored beside it, so that the
-- reader splices the user's JSON and nothing decodes it here.
local function record_error(key, job, error, errors_kept)
    local n = tonumber(job[F.errors] or 0)
    save_job(key, job, F.errors, n + 1, F.error_slot .. (n % errors_kept),
        string.format('%s,%.0f,%s', job[F.attempt], now, error))
    -- Slots of a longer ring, from before the setting changed, would stay permanently.
    local extra = errors_kept
    while n > extra and (job[F.error_slot .. extra]
        or job.partial and redis.call('HEXISTS', key, F.error_slot .. extra) == 1) do
        drop_fields(key, job, F.error_slot .. extra)
        extra = extra + 1
    end
end

-- Shortens a large error to its names for an event: streams are bounded in entries, not in bytes.
local function shorten_error(error)
    if #error <= 2048 then return error end
    return (string.match(error, '^{"code":"[^"\\]*","type":"[^"\\]*"') or '{"code":"large_error"')
        .. ',"message":"the error is too large for an event, see the job"'
end

-- Returns an error that the server itself detects: its type is its code. `more`: further members.
local function server_error(kind, message, more)
    return string.format('{"code":"%s","type":"%s","message":"%s","retryable":true%s', kind, kind,
        message, more or '')
end

-- Ends a job without a further attempt. `limits`: {keep_discarded_ms, keep_dead_ms, dead_letter_max}.
local function exhaust(id, key, job, error, decision, limits)
    if decision == 'dead_letter' then
        finish(id, key, job, 'discarded', limits[2], F.dead, 1)
        add_dead_letter(id, job, limits[3])
    else
        finish(id, key, job, 'discarded', limits[1])
    end
    emit('job.discarded', id, job, 'a', job[F.attempt], 'e', shorten_error(error))
end

-- decision: see decide_failure.lua. random_number: see backoff.
local function fail(id, key, job, error, decision, random_number, errors_kept, limits)
    record_error(key, job, error, errors_kept)
    count_attempt(job, 'failed')
    emit('job.failed', id, job, 'a', job[F.attempt], 'e', shorten_error(error))
    if decision ~= 'retry' then return exhaust(id, key, job, error, decision, limits) end
    if job[F.cancel_requested] then return finish_cancel_requested(id, key, job) end
    local delay = backoff(job[F.retry], tonumber(job[F.attempt]), random_number)
    count(job[F.queue], 'retryable', 1)
    save_job(key, job, F.state, 'retryable', F.delay, delay, F.due,
        now + delay)
    set_deadline(DUE, id, now + delay)
    if job[F.expires] then set_deadline(EXPIRING, id, tonumber(job[F.expires])) end
    emit('job.retrying', id, job, 'a', job[F.attempt], 'm', job[F.max_attempts],
        'n', job[F.due], 'e', shorten_error(error))
end

-- Records the failure of a job whose worker has stopped. The caller requeues or ends the jobs when all jobs
-- of the script have lost their leases, so that equal events share entries (see append_event.lua).
local function record_lost_lease(id, key, job, error, errors_kept)
    release_from_worker(id, job)
    -- A late nack is then a conflict, and not the repetition of an accepted one.
    drop_fields(key, job, F.lease)
    record_error(key, job, error, errors_kept)
    count_attempt(job, 'failed')
    emit('job.failed', id, job, 'a', job[F.attempt], 'e', shorten_error(error))
end

-- Makes the job available at once, or ends it after its last attempt: a job that kills its worker must not
-- run again without limit.
local function requeue_after_lost_lease(id, key, job, error, decision, limits)
    if decision ~= 'retry' then return exhaust(id, key, job, error, decision, limits) end
    if job[F.cancel_requested] then return finish_cancel_requested(id, key, job) end
    save_job(key, job, F.state, 'available', F.enqueued, now)
    make_available(id, job)
    emit('job.enqueued', id, job)
end
