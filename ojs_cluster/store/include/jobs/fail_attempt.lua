-- Ends a failed attempt: the error is recorded, and the job is retried later, discarded or dead-lettered.
-- The script has called preflight_failures (cap_dead_letters.lua) with the same decisions before its first write. At
-- its end it calls flush_error_groups, flush_counters, with remove_many flush_removals, and after batch_events
-- flush_events.
-- error: a JSON object without its closing brace. Attempt and time are stored in front of the error, and
-- store/engine/jobs/record.py appends them to the object. So no script decodes the user's JSON.
-- group: type and message of the error's group (see error_groups.lua).
-- decision: 'retry', 'discard' or 'dead_letter' (see decide_failure.lua).
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

-- Ends a job without a further attempt. `retention`: {ms to keep a discarded job, ms to keep a dead letter, maximum
-- number of dead letters of a queue}. The last is a number, and the others may be texts.
local function exhaust(id, key, job, error, decision, retention)
    if decision == 'dead_letter' then
        finish(id, key, job, 'discarded', retention[2], F.dead, 1)
        add_dead_letter(id, job, retention[3])
    else
        finish(id, key, job, 'discarded', retention[1])
    end
    emit('job.discarded', id, job, 'a', job[F.attempt], 'e', shorten_error(error))
end

-- Records and counts the failed attempt of a job that has left its worker.
local function record_failure(id, key, job, error, group, errors_kept)
    record_error(key, job, error, group, errors_kept)
    count_attempt(job, 'failed')
    emit('job.failed', id, job, 'a', job[F.attempt], 'e', shorten_error(error))
end

-- Ends the attempt of a job that has left its worker: the caller has called release_from_worker, and has dropped
-- F.delay, which is that of an earlier retry. random_number: see backoff_delay.lua. chosen_delay: the worker's delay
-- before the next attempt in ms, nil for the backoff.
local function fail(id, key, job, error, group, decision, random_number, errors_kept, retention, chosen_delay)
    record_failure(id, key, job, error, group, errors_kept)
    if decision ~= 'retry' then return exhaust(id, key, job, error, decision, retention) end
    if job[F.cancelled_keep_ms] then return finish_cancel_requested(id, key, job) end
    count_job(job, 'retried_total', 1)
    local delay = chosen_delay or backoff(job[F.retry], tonumber(job[F.attempt]), random_number)
    wait_for_retry(id, key, job, delay, error)
end

-- Ends the lease of a job whose worker has stopped, and records the failure. The caller first does this for all jobs of
-- the script, and then calls settle_lost_lease for each. So equal events follow each other and share entries of the
-- stream (see append_event.lua). F.delay stays: it is that of the last retry that waited.
local function record_lost_lease(id, key, job, error, group, errors_kept)
    release_from_worker(id, job)
    -- Without the lease id a late nack is a conflict. With it the nack would seem to repeat an accepted one.
    drop_fields(key, job, F.lease)
    record_failure(id, key, job, error, group, errors_kept)
end

-- Makes the job available at once, without a delay. Another decision than 'retry' ends it, because the job may have
-- crashed its worker; so does a cancel request.
local function settle_lost_lease(id, key, job, error, decision, retention)
    if decision ~= 'retry' then return exhaust(id, key, job, error, decision, retention) end
    if job[F.cancelled_keep_ms] then return finish_cancel_requested(id, key, job) end
    count_job(job, 'retried_total', 1)
    save_job(key, job, F.state, 'available', F.enqueued, now)
    make_available(id, job)
    emit('job.enqueued', id, job, 'f', 'active')
end
