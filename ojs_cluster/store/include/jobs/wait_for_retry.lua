-- Makes a job that has left its worker wait for its next attempt.

-- Returns the error for an event. The stream is bounded by entries and not by bytes, so a large one is cut.
local function shorten_error(error)
    if #error <= 2048 then return error end
    return (string.match(error, '^{"code":"[^"\\]*","type":"[^"\\]*"') or '{"code":"large_error"')
        .. ',"message":"the error is too large for an event, see the job"'
end

-- delay: in ms. error: why, as a JSON object without its closing brace.
local function wait_for_retry(id, key, job, delay, error)
    count_job(job, 'retryable', 1)
    save_job(key, job, F.state, 'retryable', F.delay, delay, F.due, now + delay)
    set_deadline(DUE, id, now + delay)
    if job[F.expires] then set_deadline(EXPIRING, id, tonumber(job[F.expires])) end
    emit('job.retrying', id, job, 'a', job[F.attempt], 'm', job[F.max_attempts], 'n', job[F.due],
        'e', shorten_error(error))
end
