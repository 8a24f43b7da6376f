-- Gives a worker the lease of a job that has just left its queue. The job gets the next attempt number, a new
-- lease id and a deadline. `requested_ms`: length of the lease in ms; '' for the job's visibility timeout, or
-- for `default_ms` when the job has none.
-- Returns attempt, deadline and length of the lease. store/engine/fetch/fetch.py knows the other new fields, so the
-- reply leaves them out. The caller increments the queue's counter of active jobs.
local function lease(id, job, worker, lease_id, requested_ms, default_ms)
    if job[F.expires] then remove_member(EXPIRING, id) end
    -- A process of an earlier version has left it after another lease.
    if job[F.alone] then redis.call('HDEL', job_key(id), F.alone) end
    leave_tenant_queue(id, job)
    local lease_ms = requested_ms ~= '' and requested_ms or job[F.visibility] or default_ms
    local deadline, attempt = now + lease_ms, (job[F.attempt] or 0) + 1
    redis.call('HSET', job_key(id), F.state, 'active', F.attempt, attempt, F.worker, worker,
        F.lease, lease_id, F.lease_ms, lease_ms, F.deadline, deadline, F.started, now)
    set_deadline(ACTIVE, id, deadline)
    if job[F.timeout] then set_deadline(EXECUTION_DEADLINES, id, now + job[F.timeout]) end
    emit('job.started', id, job, 'a', attempt, 'w', worker)
    return attempt, deadline, lease_ms + 0
end

-- Returns whether the lease id must say that ack.lua cannot complete the job (see lease_ids.py). fetch.lua and
-- _NEED_FULL_ACK of fetch_script.py have the same rule.
local function needs_full_ack(job)
    return job[F.workflow] or job[F.keep] or job[F.suspect]
end
