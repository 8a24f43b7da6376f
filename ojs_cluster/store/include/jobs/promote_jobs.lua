-- Makes due scheduled and retryable jobs available, or discards them when they have expired. Thousands of jobs
-- may be due at once. So each job costs only the read of its hash and the change of its state. Counters, scores
-- in the queue and the wake-up of workers cost one command per queue.

-- Reads the fields that a promotion needs, without the envelope. A job that has expired is read completely.
local function load_for_promotion(key)
    local found = redis.call('HMGET', key, F.state, F.queue, F.type, F.priority, F.expires,
        F.tenant)
    local expires = found[5] and tonumber(found[5])
    if not found[1] or expires and expires <= now then return load_job(key) end
    if not (found[2] and found[3] and (not found[4] or is_number(found[4]))
        and (not found[5] or is_number(found[5]))) then return nil, {'malformed'} end
    return {[F.state] = found[1], [F.queue] = found[2], [F.type] = found[3],
        [F.priority] = found[4] or nil, [F.expires] = found[5] or nil, [F.tenant] = found[6] or nil}
end

--@include reply_size
local DUE_BYTES = 1024 * 1024
-- Returns ids of due jobs, the earliest first; id -> job, or false for a missing job; ids of malformed jobs;
-- and the bytes of the jobs that were read completely. `complete`: read all fields of each job, because the
-- caller returns the jobs, and stop when they have DUE_BYTES.
local function load_due_jobs(limit, complete)
    local ids, jobs, malformed_ids, bytes = {}, {}, {}, 0
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, limit)) do
        if bytes >= DUE_BYTES then break end
        local job, reply = (complete and load_job or load_for_promotion)(job_key(id))
        if complete and job then bytes = bytes + size_of(job) end
        local waits = job and (job[F.state] == 'scheduled' or job[F.state] == 'retryable')
        if is_malformed(reply) or job and not waits then
            malformed_ids[#malformed_ids + 1] = id
        else
            ids[#ids + 1] = id
            jobs[id] = job or false
            if job then
                preflight_key(queue_counters_key(job[F.queue]))
                preflight_key(queue_available_key(job[F.queue]))
                if job[F.tenant] then
                    preflight_key(tenant_queue_key(job[F.queue], job[F.tenant]))
                    preflight_key(tenant_counters_key(job[F.tenant]))
                    preflight_key(tenant_turns_key(job[F.queue]))
                end
            end
        end
    end
    if #ids > 0 then run_preflight() end
    return ids, jobs, malformed_ids, bytes
end

-- Promotes the jobs that load_due_jobs has returned.
local function promote_due(ids, jobs, keep_discarded_ms)
    for _, id in ipairs(ids) do
        remove_member(DUE, id)
        local key, job = job_key(id), jobs[id]
        if job then
            count_job(job, job[F.state], -1)
            if job[F.expires] and tonumber(job[F.expires]) <= now then
                remove_member(EXPIRING, id)
                expire(id, key, job, keep_discarded_ms)
            else
                local before = job[F.state]
                add_arrival(id, job)
                if job.field_list then save_job(key, job, F.state, 'available', F.enqueued, now)
                else redis.call('HSET', key, F.state, 'available', F.enqueued, now) end
                emit('job.enqueued', id, job, 'f', before)
            end
        end
    end
    flush_arrivals()
end
