-- Leases a job that leaves its queue to a worker: attempt + 1, a new lease id, a deadline. `requested_ms`:
-- '' for the job's own visibility timeout or the server's. Returns the values that store/fetch/fetch.py does
-- not know; others would only lengthen the reply. The caller counts the job.
local function lease(id, job, worker, lease_id, requested_ms, default_ms)
    if job[F.expires] then remove_member(EXPIRING, id) end
    local lease_ms = requested_ms ~= '' and requested_ms or job[F.visibility] or default_ms
    local deadline, attempt = now + lease_ms, (job[F.attempt] or 0) + 1
    redis.call('HSET', job_key(id), F.state, 'active', F.attempt, attempt, F.worker, worker,
        F.lease, lease_id, F.lease_ms, lease_ms, F.deadline, deadline, F.started, now)
    set_deadline(ACTIVE, id, deadline)
    if job[F.timeout] then set_deadline(EXECUTION_DEADLINES, id, now + job[F.timeout]) end
    emit('job.started', id, job, 'a', attempt, 'w', worker)
    return attempt, deadline, lease_ms
end
