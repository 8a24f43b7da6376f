-- Promotes due scheduled and retryable jobs, or discards those that have expired. Thousands may be due at
-- once. So only reads and state changes run per job; counters, positions, index and wake-up run once per
-- queue.

-- Reads the fields that a promotion needs, without the envelope.
local function load_for_promotion(key)
    local found = redis.call('HMGET', key, F.state, F.queue, F.type, F.priority, F.expires)
    local expires = found[5] and tonumber(found[5])
    if not found[1] or expires and expires <= now then return load_job(key) end
    if not (found[2] and found[3] and (not found[4] or is_number(found[4]))
        and (not found[5] or is_number(found[5]))) then return nil, {'malformed'} end
    return {[F.state] = found[1], [F.queue] = found[2], [F.type] = found[3],
        [F.priority] = found[4] or nil, [F.expires] = found[5] or nil}
end

-- Returns the due jobs: ids in order of time, the jobs, ids of malformed ones, and the bytes of whole jobs.
-- `whole`: all fields are read, for a reply, and no more jobs than fill DUE_BYTES.
--@include reply_size
local DUE_BYTES = 1024 * 1024
local function load_due_jobs(limit, whole)
    local ids, jobs, malformed_ids, bytes = {}, {}, {}, 0
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, limit)) do
        if bytes >= DUE_BYTES then break end
        local job, reply = (whole and load_job or load_for_promotion)(job_key(id))
        if whole and job then bytes = bytes + size_of(job) end
        local waits = job and (job[F.state] == 'scheduled' or job[F.state] == 'retryable')
        if is_malformed(reply) or job and not waits then
            malformed_ids[#malformed_ids + 1] = id
        else
            ids[#ids + 1] = id
            jobs[id] = job or false
            if job then
                preflight_key(queue_counters_key(job[F.queue]))
                preflight_key(queue_available_key(job[F.queue]))
            end
        end
    end
    if #ids > 0 then run_preflight() end
    return ids, jobs, malformed_ids, bytes
end

local function promote_due(ids, jobs, keep_discarded_ms)
    for _, id in ipairs(ids) do
        remove_member(DUE, id)
        local key, job = job_key(id), jobs[id]
        if job then
            count(job[F.queue], job[F.state], -1)
            if job[F.expires] and tonumber(job[F.expires]) <= now then
                remove_member(EXPIRING, id)
                expire(id, key, job, keep_discarded_ms)
            else
                add_arrival(id, job)
                if job.flat then save_job(key, job, F.state, 'available', F.enqueued, now)
                else redis.call('HSET', key, F.state, 'available', F.enqueued, now) end
                emit('job.enqueued', id, job)
            end
        end
    end
    flush_arrivals()
end
