-- The end of a job: its terminal state, and the day retention removes it.
-- ARGV positions of the retention times differ by script; callers pass ms.
local function finish(id, key, job, state, keep_ms, ...)
    local queue = job[F.queue]
    count(queue, state, 1)
    redis.call('ZADD', FINISHED, now + keep_ms, id)
    save_job(key, job, F.state, state, F.finished, now, ...)
end

-- The job's time ran out before it was started: discarded, without completed_at.
local function expire(id, key, job, keep_ms)
    finish(id, key, job, 'discarded', keep_ms, F.expired, 1)
    emit('job.expired', id, job, 'c', job[F.created], 'x', job[F.expires])
end

-- An active job leaves its worker.
local function leave_worker(id, job)
    take_out(ACTIVE, id)
    if job[F.timeout] then take_out(RUNNING, id) end
    count(job[F.queue], 'active', -1)
end
