-- Loads many jobs. A script that reads a MiB takes more than a ms. So a script that has read MAX_WHOLE_BYTES
-- reads only the small fields of further jobs.
--@include read_job reply_size
local MAX_WHOLE_BYTES = 1024 * 1024
local bytes_loaded = 0
local SMALL_JOB_FIELDS = {F.state, F.type, F.queue, F.priority, F.created, F.max_attempts, F.retry,
    F.non_retryable, F.on_exhaustion, F.visibility, F.timeout, F.expires, F.attempt, F.enqueued, F.started,
    F.finished, F.due, F.delay, F.worker, F.lease, F.deadline, F.lease_ms, F.extended, F.errors, F.dead,
    F.expired, F.replays, F.alias, F.workflow, F.step, F.unique, F.transaction, F.max_per_second,
    F.fixed_id, F.cancelled_keep_ms, F.limit, F.token, F.open_token_request, F.token_request_count, F.hidden,
    F.progress, F.checkpoint, F.tenant, F.keep, F.parked, F.suspect, F.alone, F.deaths}

-- Loads a job as load_job does, but without result and errors, and with an empty envelope (`job.partial`).
local function load_small_fields(key)
    local job, field_list = {partial = true}, {}
    for i, value in ipairs(redis.call('HMGET', key, unpack(SMALL_JOB_FIELDS))) do
        if value then
            job[SMALL_JOB_FIELDS[i]] = value
            field_list[#field_list + 1], field_list[#field_list + 2] = SMALL_JOB_FIELDS[i], value
        end
    end
    if redis.call('HEXISTS', key, F.envelope) == 1 then job[F.envelope] = '' end
    return check_job(key, job, next(field_list) and field_list or job[F.envelope] and field_list)
end

-- Loads a job as load_job does, or partially after the first MAX_WHOLE_BYTES of the script.
local function load_within_budget(key)
    if bytes_loaded >= MAX_WHOLE_BYTES then return load_small_fields(key) end
    local job, reply = load_job(key)
    if job then bytes_loaded = bytes_loaded + size_of(job) + #(job[F.result] or '') end
    return job, reply
end
