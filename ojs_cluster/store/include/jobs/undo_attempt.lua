-- Ends an attempt that does not count. The next attempt gets its number again.
--@include wait_for_retry

-- The next attempt must not begin with the progress of this one.
local function drop_progress_of_attempt(key, job)
    if string.match(job[F.progress] or '', '^%d+') == job[F.attempt] then
        drop_fields(key, job, F.progress, F.progress_data)
    end
end

-- Makes a job available as it was before its fetch.
local function undo_attempt(key, job)
    drop_progress_of_attempt(key, job)
    save_job(key, job, F.state, 'available', F.attempt, job[F.attempt] - 1)
    if job[F.attempt] == '0' then drop_fields(key, job, F.started) end
end

-- Lets a job that has left its worker run later, as if this attempt had not been. delay: in ms. error: why.
local function snooze(id, key, job, delay, error)
    if job[F.cancelled_keep_ms] then return finish_cancel_requested(id, key, job) end
    drop_progress_of_attempt(key, job)
    save_job(key, job, F.attempt, job[F.attempt] - 1)
    wait_for_retry(id, key, job, delay, error)
end
