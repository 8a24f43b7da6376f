-- Reads the jobs of a queue that a fetch may take (see select_jobs.lua).
--@include load_jobs park_jobs
-- One table for the functions of this file, candidate_items.lua, scan_progress.lua and select_jobs.lua, because a
-- script may have 200 locals, and for what they have found:
--   is_blocked_found  a job that cannot start was found: more may follow, so rows are read ahead, and few fields each
--   malformed         id -> true for a malformed job
--   passed_groups     'queue:rate limit key' -> true when the preflight of its keys is done
local candidates = {is_blocked_found = false, malformed = {}, passed_groups = {}}

-- Reads only the fields that the transition of a blocked or expired job needs: hundreds of such jobs may be
-- before one that can start. Returns nil when the job may be able to start.
function candidates.load_blocked(queue, id)
    local key = job_key(id)
    local found = redis.call('HMGET', key, F.limit, F.token, F.transaction, F.expires, F.token_request_count,
        F.tenant, F.parked, F.type)
    if found[4] and (tonumber(found[4]) or 0) <= now then return load_small_fields(key) end
    if not found[1] or found[2] or found[3] or found[5] and not is_number(found[5]) or not found[8] then
        return
    end
    local job = {[F.limit] = found[1], [F.token_request_count] = found[5] or nil, [F.queue] = queue.name,
        [F.tenant] = found[6] or nil, [F.parked] = found[7] or nil, [F.type] = found[8]}
    local limit = load_local_limit(job)
    if limit and limit.untaken > 0 then return end
    if job[F.tenant] then preflight_key(tenant_queue_key(queue.name, job[F.tenant])) end
    if job[F.parked] then preflight_parked(job) end
    local group = queue.name .. ':' .. limit_of(job)
    if not candidates.passed_groups[group] then
        preflight_limit(job)
        preflight_key(OUTBOX)
        preflight_key(OUTBOX_DUE)
    end
    candidates.passed_groups[group] = true
    return job
end

-- Reads a job of a queue. Returns false for a missing or malformed one.
function candidates.load(queue, id)
    local job, reply = nil, nil
    if candidates.is_blocked_found then job = parking.load(queue, id) or candidates.load_blocked(queue, id) end
    -- After a malformed job, the next job may also be malformed, and large. So its small fields are read first.
    if not job and next(candidates.malformed) then
        job, reply = load_small_fields(job_key(id))
        if job and job[F.state] == 'available' then job = nil end
    end
    if not job and not is_malformed(reply) then job, reply = load_job(job_key(id)) end
    if is_malformed(reply) or job and job[F.state] and job[F.state] ~= 'available' then
        candidates.malformed[id] = true
        preflight_key(QUARANTINE)
        return false
    end
    if job and job[F.limit] then load_local_limit(job) end
    return job or false
end
