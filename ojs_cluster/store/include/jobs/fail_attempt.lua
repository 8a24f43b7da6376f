-- Ends a failed attempt: the error is recorded, and the job is retried later, discarded or dead-lettered.
-- error: a JSON object without its closing brace. Attempt and time are stored in front of the error, and
-- store/engine/jobs/record.py appends them to the object. So no script decodes the user's JSON.
-- group: type and message of the error's group (see error_groups.lua).
--@include record_history wait_for_retry
local function record_error(key, job, error, group, errors_kept)
    count_error(key, job, group)
    record_history(key, job, 'failed', attempt_members(job) .. error_member(error))
    local earlier = tonumber(job[F.errors] or 0)
    save_job(key, job, F.errors, earlier + 1, F.error_slot .. (earlier % errors_kept),
        string.format('%s,%.0f,%s', job[F.attempt], now, error))
    -- If OJS_ERRORS_KEPT was larger before, the job has slots that no further error would overwrite.
    local extra_slot = errors_kept
    while earlier > extra_slot and (job[F.error_slot .. extra_slot]
        or job.partial and redis.call('HEXISTS', key, F.error_slot .. extra_slot) == 1) do
        drop_fields(key, job, F.error_slot .. extra_slot)
        extra_slot = extra_slot + 1
    end
end

-- Ends a job without a further attempt. `retention`: {keep_discarded_ms, keep_dead_ms, dead_letter_max}.
local function exhaust(id, key, job, error, decision, retention)
    if decision == 'dead_letter' then
        finish(id, key, job, 'discarded', retention[2], F.dead, 1)
        add_dead_letter(id, job, retention[3])
    else
        finish(id, key, job, 'discarded', retention[1])
    end
    emit('job.discarded', id, job, 'a', job[F.attempt], 'e', shorten_error(error))
end

-- Ends the attempt of a job that has left its worker. random_number: see backoff_delay.lua. chosen_delay: the
-- worker's delay before the next attempt in ms, nil for the backoff.
local function fail(id, key, job, error, group, decision, random_number, errors_kept, retention, chosen_delay)
    record_error(key, job, error, group, errors_kept)
    count_attempt(job, 'failed')
    emit('job.failed', id, job, 'a', job[F.attempt], 'e', shorten_error(error))
    if decision ~= 'retry' then return exhaust(id, key, job, error, decision, retention) end
    if job[F.cancelled_keep_ms] then return finish_cancel_requested(id, key, job) end
    count_job(job, 'retried_total', 1)
    local delay = chosen_delay or backoff(job[F.retry], tonumber(job[F.attempt]), random_number)
    wait_for_retry(id, key, job, delay, error)
end

-- Ends the lease of a job whose worker has stopped, and records the failure. The caller first does this for all
-- jobs of the script, and then calls requeue_after_lost_lease for each job. So equal events follow each other
-- and share entries of the stream (see append_event.lua).
local function record_lost_lease(id, key, job, error, group, errors_kept)
    release_from_worker(id, job)
    -- Without the lease id a late nack is a conflict. With it the nack would seem to repeat an accepted one.
    drop_fields(key, job, F.lease)
    record_error(key, job, error, group, errors_kept)
    count_attempt(job, 'failed')
    emit('job.failed', id, job, 'a', job[F.attempt], 'e', shorten_error(error))
end

-- Makes the job available at once. A job may have crashed its worker, so its last attempt ends it.
local function requeue_after_lost_lease(id, key, job, error, decision, retention)
    if decision ~= 'retry' then return exhaust(id, key, job, error, decision, retention) end
    if job[F.cancelled_keep_ms] then return finish_cancel_requested(id, key, job) end
    count_job(job, 'retried_total', 1)
    save_job(key, job, F.state, 'available', F.enqueued, now)
    make_available(id, job)
    emit('job.enqueued', id, job, 'f', 'active')
end
