-- Selects the jobs that a fetch takes. `queues` and `jobs` are those of fetch_full.lua.
-- `malformed`: jobs that no fetch can return.
--@include load_jobs
-- Blocked jobs that one call passes, at 10 us each. A job that leaves its queue counts as eight.
local PASSED_MOST, LEAVING = 400, 8
local passing, passed, malformed = false, {}, {}

-- Reads the fields that a blocked or expired job needs: hundreds of them may come before one that can run.
-- Returns nil for any other job.
local function load_blocked(queue, id)
    local key = job_key(id)
    local found = redis.call('HMGET', key, F.limit, F.token, F.transaction, F.expires, F.token_requests)
    if found[4] and (tonumber(found[4]) or 0) <= now then return load_small_fields(key) end
    if not found[1] or found[2] or found[3] or found[5] and not is_number(found[5]) then return end
    local job = {[F.limit] = found[1], [F.token_requests] = found[5] or nil, [F.queue] = queue.name}
    local limit = load_local_limit(job)
    if limit and limit.left > 0 then return end
    local group = queue.name .. ':' .. limit_of(job)
    if not passed[group] then preflight_limit(job) end
    passed[group] = true
    return job
end

local function load_candidate(queue, id)
    local job, reply = passing and load_blocked(queue, id), nil
    -- After a malformed job the next one is read in part first: it may be malformed and large as well.
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

-- Reads the heads of the queues, in order, until enough jobs can start. Returns the jobs read, and whether
-- the budget ended first. `bytes_read`: bytes of jobs that were read before. A second scan, after the
-- promotion of due jobs, ends at a job that the first has not read: its preflight is not possible any more.
local function scan(queues, jobs, wanted, bytes_read, again)
    local found, live, bytes, budget = {}, 0, bytes_read, wanted + PASSED_MOST
    reset_local_tokens()
    for _, queue in ipairs(queues) do
        local from, most = 0, live + free_starts(queue.limits.limiters, wanted - live)
        local open = not queue.limits.paused
        queue.visited = open and live < most
        while open and live < most and budget > 0 and bytes < MOST_BYTES do
            local size = math.min(math.max(most - live, passing and 100 or 0), budget)
            local rows = redis.call('ZRANGE', queue.available, from, from + size - 1, 'WITHSCORES')
            for i = 1, #rows, 2 do
                local id = rows[i]
                if again and jobs[id] == nil then budget = 0 end
                if bytes >= MOST_BYTES or live >= most or budget <= 0 then break end
                if jobs[id] == nil then jobs[id] = load_candidate(queue, id) end
                local job = jobs[id]
                local alive = job and (not job[F.expires] or tonumber(job[F.expires]) > now)
                local starts = alive and may_start(job)
                if starts then live, bytes = live + 1, bytes + size_of(job) end
                passing = passing or not starts
                budget = budget - (alive and 1 or LEAVING)
                found[#found + 1] = {id = id, score = tonumber(rows[i + 1]), queue = queue, job = job,
                    alive = alive, starts = starts}
            end
            open, from = #rows == 2 * size, from + size
        end
        queue.last = (live >= most or bytes >= MOST_BYTES) and #found > 0 and found[#found].id
        if live >= wanted or bytes >= MOST_BYTES then break end
    end
    return found, budget <= 0 and live < wanted
end
