-- Scheduled and retryable jobs whose time has come become available, or expire if that came first.
-- Looks at what is due: ids in the order of their time, and the jobs.
local function look_at_due(limit)
    local ids = redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, limit)
    if #ids == 0 then return ids, {} end
    local jobs = load_jobs(ids)
    for _, job in pairs(jobs) do
        if job then
            want(queue_key(job[F.queue]))
            want(available_key(job[F.queue]))
        end
    end
    look()
    return ids, jobs
end

local function promote_due(ids, jobs, keep_discarded_ms)
    for _, id in ipairs(ids) do
        take_out(DUE, id)
        local key, job = job_key(id), jobs[id]
        if job then
            count(job[F.queue], job[F.state], -1)
            if job[F.expires] and tonumber(job[F.expires]) <= now then
                take_out(EXPIRING, id)
                expire(id, key, job, keep_discarded_ms)
            else
                save_job(key, job, F.state, 'available', F.enqueued, now)
                make_available(id, job)
                emit('job.enqueued', id, job)
            end
        end
    end
end
