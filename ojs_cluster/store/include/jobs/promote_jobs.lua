-- Makes due scheduled and retryable jobs available, or discards them when they have expired. Thousands of jobs
-- may be due at once, and most of them have equal fields. So each job costs only the read of its hash and the
-- change of its state. All else is done once for a run of jobs: neighbours in DUE whose fields are equal.

--@include load_for_promotion emit_many reply_size

-- Reads the keys that the promotion of a job touches, once for all jobs that share a table. `tables` counts these.
local checked, tables = {}, 0
local function preflight_promotion(job)
    if checked[job] then return end
    checked[job], tables = true, tables + 1
    preflight_key(queue_counters_key(job[F.queue]))
    preflight_key(queue_available_key(job[F.queue]))
    if job[F.tenant] then
        preflight_key(tenant_queue_key(job[F.queue], job[F.tenant]))
        preflight_key(tenant_counters_key(job[F.tenant]))
        preflight_key(tenant_turns_key(job[F.queue]))
    end
end

-- A script ends after the job that reaches one of these bounds, because it would block Redis for too long.
local DUE_BYTES = 1024 * 1024
local DUE_TABLES = 100
-- Returns the due jobs, the earliest first: {ids, keys, runs = {{job = fields, or false for a missing job, from and
-- to = indexes of the first and the last id}, ...}}; the ids of malformed jobs; and the bytes of the jobs that were
-- read completely. `complete`: read all fields of each job, because the caller returns the jobs. Each job is then a
-- run of its own.
local function load_due_jobs(limit, complete)
    local ids, keys, runs, malformed_ids, bytes, number, run = {}, {}, {}, {}, 0, 0, {}
    local load = complete and load_job or load_for_promotion
    local found = redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, limit)
    for i = 1, #found do
        if bytes >= DUE_BYTES or tables >= DUE_TABLES then break end
        local id = found[i]
        local key = job_key(id)
        local job, reply = load(key)
        if job and job.field_list then bytes = bytes + size_of(job) end
        if job and job == run.job then
            number = number + 1
            ids[number], keys[number], run.to = id, key, number
        elseif is_malformed(reply) or job and job[F.state] ~= 'scheduled' and job[F.state] ~= 'retryable' then
            malformed_ids[#malformed_ids + 1] = id
        else
            number = number + 1
            ids[number], keys[number], run = id, key, {job = job or false, from = number, to = number}
            runs[#runs + 1] = run
            if job then preflight_promotion(job) end
        end
    end
    if number > 0 then run_preflight() end
    return {ids = ids, keys = keys, runs = runs}, malformed_ids, bytes
end

-- Promotes the jobs that load_due_jobs has returned. The caller removes them from DUE.
local function promote_due(due, keep_discarded_ms)
    local promoted_at, ids, keys = string.format('%.0f', now), due.ids, due.keys
    for _, run in ipairs(due.runs) do
        local job, from, to = run.job, run.from, run.to
        local before = job and job[F.state]
        if job then count_job(job, before, from - to - 1) end
        if job and job[F.expires] and tonumber(job[F.expires]) <= now then
            remove_member(EXPIRING, ids[from])
            expire(ids[from], keys[from], job, keep_discarded_ms)
        elseif job then
            add_arrivals(ids, from, to, job)
            if job.field_list then save_job(keys[from], job, F.state, 'available', F.enqueued, promoted_at)
            else
                for i = from, to do
                    redis.call('HSET', keys[i], F.state, 'available', F.enqueued, promoted_at)
                end
            end
            emit_many('job.enqueued', ids, from, to, job, 'f', before)
        end
    end
    flush_arrivals()
end
