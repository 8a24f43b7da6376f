-- Completes a job, for ack_full.lua and ack_many.lua. `worker` and `lease`: see check_holder.lua.
local function preflight_ack(job)
    preflight_key(queue_counters_key(job[F.queue]))
    preflight_key(queue_minutes_key(job[F.queue]))
    if job[F.timeout] then preflight_key(EXECUTION_DEADLINES) end
end

-- Returns the reply of an ack that changes nothing, or nil when the job can be completed. When the holder
-- repeats the ack that has completed the job, it gets the job again.
local function early_ack_reply(job, worker, lease)
    local named = worker ~= '' or lease ~= ''
    if job[F.state] == 'completed' and named and is_holder(job, worker, lease) then
        return {'ok', job.field_list}
    end
    if job[F.state] ~= 'active' then return {'conflict', job[F.state]} end
    if not is_holder(job, worker, lease) then return {'not_holder'} end
end

-- Completes the job and returns the reply. `result`: JSON, '' for none. `keep_ms`: retention.
local function complete(id, key, job, result, keep_ms)
    release_from_worker(id, job)
    if result ~= '' then finish(id, key, job, 'completed', keep_ms, F.result, result)
    else finish(id, key, job, 'completed', keep_ms) end
    if job[F.delay] then drop_fields(key, job, F.delay) end
    count_attempt(job, 'completed')
    emit('job.completed', id, job, 'a', job[F.attempt], 'd', now - job[F.started])
    return {'ok', job.field_list}
end
