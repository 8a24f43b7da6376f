-- A failed attempt: recorded, then retried later, discarded or dead-lettered.
-- error: a JSON object without its closing brace; attempt and time are kept beside it, so that
-- user JSON is spliced by the reader and never decoded here.
local function record_error(key, job, error, kept)
    local n = tonumber(job[F.errors] or 0)
    save_job(key, job, F.errors, n + 1, F.error_slot .. (n % kept),
        string.format('%s,%.0f,%s', job[F.attempt], now, error))
    -- Slots of a longer ring, from before the setting changed, would stay for ever.
    while n > kept and (job[F.error_slot .. kept]
        or job.partial and redis.call('HEXISTS', key, F.error_slot .. kept) == 1) do
        drop_fields(key, job, F.error_slot .. kept)
        kept = kept + 1
    end
end

-- Events carry the error too, so a large one is cut to its names: streams are bounded in entries.
local function shorten_error(error)
    if #error <= 2048 then return error end
    return (string.match(error, '^{"code":"[^"\\]*","type":"[^"\\]*"') or '{"code":"large_error"')
        .. ',"message":"the error is too large for an event, see the job"'
end

-- An error that the server itself finds: its type is its code. `more`: further members.
local function server_error(kind, message, more)
    return string.format('{"code":"%s","type":"%s","message":"%s","retryable":true%s', kind, kind,
        message, more or '')
end

-- No attempt is left. `limits`: {keep_discarded_ms, keep_dead_ms, dead_letter_max}.
local function exhaust(id, key, job, error, fate, limits)
    if fate == 'dead_letter' then
        finish(id, key, job, 'discarded', limits[2], F.dead, 1)
        add_dead_letter(id, job, limits[3])
    else
        finish(id, key, job, 'discarded', limits[1])
    end
    emit('job.discarded', id, job, 'a', job[F.attempt], 'e', shorten_error(error))
end

-- fate: see fate.lua. chance: see backoff.
local function fail(id, key, job, error, fate, chance, kept, limits)
    record_error(key, job, error, kept)
    count_attempt(job, 'f')
    emit('job.failed', id, job, 'a', job[F.attempt], 'e', shorten_error(error))
    if fate ~= 'retry' then return exhaust(id, key, job, error, fate, limits) end
    if job[F.cancel_requested] then return finish_cancel_requested(id, key, job) end
    local delay = backoff(job[F.retry], tonumber(job[F.attempt]), chance)
    count(job[F.queue], 'retryable', 1)
    save_job(key, job, F.state, 'retryable', F.delay, delay, F.due,
        now + delay)
    set_deadline(DUE, id, now + delay)
    if job[F.expires] then set_deadline(EXPIRING, id, tonumber(job[F.expires])) end
    emit('job.retrying', id, job, 'a', job[F.attempt], 'm', job[F.max_attempts],
        'n', job[F.due], 'e', shorten_error(error))
end

-- The worker is gone or silent. What that leads to comes when all jobs of the script have lost their
-- leases, so that like events are neighbours (see event.lua).
local function record_lost_lease(id, key, job, error, kept)
    release_from_worker(id, job)
    -- So that its late nack is a conflict, not taken for the repetition of an accepted one.
    drop_fields(key, job, F.lease)
    record_error(key, job, error, kept)
    count_attempt(job, 'f')
    emit('job.failed', id, job, 'a', job[F.attempt], 'e', shorten_error(error))
end

-- Available at once, or exhausted when this was the last attempt (a job that kills its worker must
-- not circulate for ever).
local function requeue_after_lost_lease(id, key, job, error, fate, limits)
    if fate ~= 'retry' then return exhaust(id, key, job, error, fate, limits) end
    if job[F.cancel_requested] then return finish_cancel_requested(id, key, job) end
    save_job(key, job, F.state, 'available', F.enqueued, now)
    make_available(id, job)
    emit('job.enqueued', id, job)
end
