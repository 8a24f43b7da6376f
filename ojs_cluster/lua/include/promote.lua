-- Scheduled and retryable jobs whose time has come become available, or expire if that came first.
local function promote_due(limit, keep_discarded_ms)
    local ids = redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, limit)
    for _, id in ipairs(ids) do
        redis.call('ZREM', DUE, id)
        local key = job_key(id)
        local job = load_job(key)
        if job then
            count(job[F.queue], job[F.state], -1)
            if job[F.expires] and tonumber(job[F.expires]) <= now then
                redis.call('ZREM', EXPIRING, id)
                expire(id, key, job, keep_discarded_ms)
            else
                save_job(key, job, F.state, 'available', F.enqueued, now)
                make_available(id, job)
                emit('job.enqueued', id, job)
            end
        end
    end
    return #ids
end
