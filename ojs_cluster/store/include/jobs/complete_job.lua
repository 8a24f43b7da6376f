-- What an ack does to a job, alone or among many. '' for a worker or lease the caller did not name.
local function preflight_ack(job)
    preflight_key(queue_counters_key(job[F.queue]))
    preflight_key(queue_minutes_key(job[F.queue]))
end

-- The answer when there is nothing to do, nil when the job is to be completed. The holder repeating
-- the ack that completed the job gets the job.
local function early_ack_reply(job, worker, lease)
    local named = worker ~= '' or lease ~= ''
    if job[F.state] == 'completed' and named and is_holder(job, worker, lease) then
        return {'ok', job.flat}
    end
    if job[F.state] ~= 'active' then return {'conflict', job[F.state]} end
    if not is_holder(job, worker, lease) then return {'not_holder'} end
end

local function complete(id, key, job, result, keep_ms)
    release_from_worker(id, job)
    if result ~= '' then finish(id, key, job, 'completed', keep_ms, F.result, result)
    else finish(id, key, job, 'completed', keep_ms) end
    if job[F.delay] then drop_fields(key, job, F.delay) end
    count_attempt(job, 'c')
    emit('job.completed', id, job, 'a', job[F.attempt], 'd', now - job[F.started])
    return {'ok', job.flat}
end
