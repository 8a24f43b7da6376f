-- A job that leaves its queue is leased to a worker: attempt + 1, a new lease id, a deadline. `asked_ms`:
-- '' for the job's own visibility timeout, or the server's. Returns what store/fetch/fetch.py cannot know of
-- it: what it can would only make replies longer. The caller counts it.
local function lease(id, job, worker, lease_id, asked_ms, usual_ms)
    if job[F.expires] then remove_member(EXPIRING, id) end
    local lease_ms = asked_ms ~= '' and asked_ms or job[F.visibility] or usual_ms
    local deadline, attempt = now + lease_ms, (job[F.attempt] or 0) + 1
    redis.call('HSET', job_key(id), F.state, 'active', F.attempt, attempt, F.worker, worker,
        F.lease, lease_id, F.lease_ms, lease_ms, F.deadline, deadline, F.started, now)
    set_deadline(ACTIVE, id, deadline)
    if job[F.timeout] then set_deadline(EXECUTION_DEADLINES, id, now + job[F.timeout]) end
    emit('job.started', id, job, 'a', attempt, 'w', worker)
    return attempt, deadline, lease_ms
end
