-- Loads many jobs with a bound on the bytes read: a MiB takes Lua more than a ms. After the first MiB only
-- small fields are read.
--@include read_job reply_size
local MOST_LOADED, bytes_loaded = 1024 * 1024, 0
local SMALL = {F.state, F.type, F.queue, F.priority, F.created, F.max_attempts, F.retry, F.non_retryable,
    F.on_exhaustion, F.visibility, F.timeout, F.expires, F.attempt, F.enqueued, F.started, F.finished, F.due,
    F.delay, F.worker, F.lease, F.deadline, F.lease_ms, F.extended, F.errors, F.dead, F.expired, F.replays,
    F.alias, F.workflow, F.step, F.unique, F.transaction, F.max_per_second, F.fixed, F.cancel_requested,
    F.limit, F.token, F.requested_token, F.token_requests, F.hidden, F.progress}

-- Returns as load_job. A partial job has no envelope, result or errors.
local function load_small_fields(key)
    local job, flat = {partial = true}, {}
    for i, value in ipairs(redis.call('HMGET', key, unpack(SMALL))) do
        if value then
            job[SMALL[i]] = value
            flat[#flat + 1], flat[#flat + 2] = SMALL[i], value
        end
    end
    if redis.call('HEXISTS', key, F.envelope) == 1 then job[F.envelope] = '' end
    return check_job(key, job, next(flat) and flat or job[F.envelope] and flat)
end

local function load_within_budget(key)
    if bytes_loaded >= MOST_LOADED then return load_small_fields(key) end
    local job, reply = load_job(key)
    if job then bytes_loaded = bytes_loaded + size_of(job) + #(job[F.result] or '') end
    return job, reply
end
