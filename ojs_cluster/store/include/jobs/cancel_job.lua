-- Cancels a job that is not terminal: the job leaves its queue or its worker, and loses its deadlines.
--@include record_history
local function preflight_cancel(job)
    preflight_key(queue_counters_key(job[F.queue]))
    if job[F.state] == 'available' then preflight_key(queue_available_key(job[F.queue])) end
end

-- Takes a job that is not terminal out of the index of its state, and out of the deadlines.
local function leave_index(id, job)
    local state = job[F.state]
    if state == 'active' then
        release_from_worker(id, job)
    elseif state == 'available' then
        remove_from_queue(id, job)
    else
        count_job(job, state, -1)
        remove_member(state == 'pending' and PENDING or DUE, id)
    end
    if job[F.expires] then remove_member(EXPIRING, id) end
end

local function cancel(id, key, job, keep_ms)
    local state = job[F.state]
    if history_cause ~= '' then record_history(key, job, 'cancelled', '') end
    leave_index(id, job)
    finish(id, key, job, 'cancelled', keep_ms)
    emit('job.cancelled', id, job, 'f', state)
    local worker = state == 'active' and job[F.worker] or ''
    if worker ~= '' then redis.call('SPUBLISH', WAKE_CHANNEL, '!' .. id .. ' ' .. worker) end -- worker_messages.py
end
