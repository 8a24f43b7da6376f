-- A job that is not terminal is cancelled: in no queue and under no deadline from now on.
local function want_to_cancel(job)
    want(queue_counters_key(job[F.queue]))
    if job[F.state] == 'available' then want(queue_available_key(job[F.queue])) end
end

local function cancel(id, key, job, keep_ms)
    local state = job[F.state]
    if state == 'active' then
        leave_worker(id, job)
    elseif state == 'available' then
        leave_queue(id, job)
    else
        count(job[F.queue], state, -1)
        take_out(state == 'pending' and PENDING or DUE, id)
    end
    if job[F.expires] then take_out(EXPIRING, id) end
    finish(id, key, job, 'cancelled', keep_ms)
    emit('job.cancelled', id, job)
end
