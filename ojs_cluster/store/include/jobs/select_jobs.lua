-- Selects the jobs that a fetch takes. fetch_full.lua explains `queues` and `jobs`.
--@include load_jobs
-- Jobs that cannot start, which one call passes at 10 us each. A job that leaves its queue counts as eight.
local MAX_PASSED_JOBS, LEAVING_JOB_COST = 400, 8
local found_blocked = false -- whether a job that cannot start was found: more may follow, so rows are read ahead
local passed_groups = {} -- 'queue:rate limit key' -> true when the preflight of its keys is done
local malformed = {} -- id -> true for a malformed job

-- Reads only the fields that the transition of a blocked or expired job needs: hundreds of such jobs may be
-- before one that can start. Returns nil when the job may be able to start.
local function load_blocked(queue, id)
    local key = job_key(id)
    local found = redis.call('HMGET', key, F.limit, F.token, F.transaction, F.expires, F.token_request_count)
    if found[4] and (tonumber(found[4]) or 0) <= now then return load_small_fields(key) end
    if not found[1] or found[2] or found[3] or found[5] and not is_number(found[5]) then return end
    local job = {[F.limit] = found[1], [F.token_request_count] = found[5] or nil, [F.queue] = queue.name}
    local limit = load_local_limit(job)
    if limit and limit.untaken > 0 then return end
    local group = queue.name .. ':' .. limit_of(job)
    if not passed_groups[group] then preflight_limit(job) end
    passed_groups[group] = true
    return job
end

-- Reads a job of a queue. Returns false for a missing or malformed one.
local function load_candidate(queue, id)
    local job, reply = found_blocked and load_blocked(queue, id), nil
    -- After a malformed job, the next job may also be malformed, and large. So its small fields are read first.
    if not job and next(malformed) then
        job, reply = load_small_fields(job_key(id))
        if job and job[F.state] == 'available' then job = nil end
    end
    if not job and not is_malformed(reply) then job, reply = load_job(job_key(id)) end
    if is_malformed(reply) or job and job[F.state] and job[F.state] ~= 'available' then
        malformed[id] = true
        preflight_key(QUARANTINE)
        return false
    end
    if job and job[F.limit] then load_local_limit(job) end
    return job or false
end

-- Reads the first jobs of the queues, in order, until `wanted` jobs can start. `bytes_read`: bytes of jobs that
-- were read before. fetch_full.lua scans again after the promotion of due jobs. The second scan ends at the
-- first job that was not read before that write, because a job's preflight is not possible after a write.
-- Returns the jobs that were read, and whether the budget of passed jobs was used up before enough could start.
local function scan(queues, jobs, wanted, bytes_read, is_second_scan)
    -- live: jobs that can start. alive: the job has not expired.
    local scanned, live, bytes, budget = {}, 0, bytes_read, wanted + MAX_PASSED_JOBS
    reset_local_tokens()
    for _, queue in ipairs(queues) do
        local from, max_live = 0, live + free_starts(queue.limits.limiters, wanted - live)
        local open = not queue.limits.paused
        queue.visited = open and live < max_live
        while open and live < max_live and budget > 0 and bytes < MAX_REPLY_BYTES do
            local size = math.min(math.max(max_live - live, found_blocked and 100 or 0), budget)
            local rows = redis.call('ZRANGE', queue.available, from, from + size - 1, 'WITHSCORES')
            for i = 1, #rows, 2 do
                local id = rows[i]
                if is_second_scan and jobs[id] == nil then budget = 0 end
                if bytes >= MAX_REPLY_BYTES or live >= max_live or budget <= 0 then break end
                if jobs[id] == nil then jobs[id] = load_candidate(queue, id) end
                local job = jobs[id]
                local alive = job and (not job[F.expires] or tonumber(job[F.expires]) > now)
                local starts = alive and may_start(job)
                if starts then live, bytes = live + 1, bytes + size_of(job) end
                found_blocked = found_blocked or not starts
                budget = budget - (alive and 1 or LEAVING_JOB_COST)
                scanned[#scanned + 1] = {id = id, score = tonumber(rows[i + 1]), queue = queue, job = job,
                    alive = alive, starts = starts}
            end
            open, from = #rows == 2 * size, from + size
        end
        queue.last = (live >= max_live or bytes >= MAX_REPLY_BYTES) and #scanned > 0
            and scanned[#scanned].id
        if live >= wanted or bytes >= MAX_REPLY_BYTES then break end
    end
    return scanned, budget <= 0 and live < wanted
end
