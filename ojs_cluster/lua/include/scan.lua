-- Which jobs a fetch takes. `queues` and `jobs` are those of fetch_any.lua.
-- `malformed`: jobs that no fetch can give.
local passing, passed, malformed = false, {}, {}

-- Of a job that only has to be held back, what that takes: hundreds of them may come before one that can
-- run. Nil for any other job.
local function load_waiting(queue, id)
    local found = redis.call('HMGET', job_key(id), F.limit, F.token, F.deal, F.expires, F.asks)
    if not found[1] or found[2] or found[3] or found[4] and (tonumber(found[4]) or 0) <= now
        or found[5] and not is_number(found[5]) then return end
    local job = {[F.limit] = found[1], [F.asks] = found[5] or nil, [F.queue] = queue.name}
    local limit = look_at_home(job)
    if limit and limit.left > 0 then return end
    local group = queue.name .. ':' .. limit_of(job)
    if not passed[group] then want_limit(job) end
    passed[group] = true
    return job
end

local function load_met(queue, id)
    local job, reply = passing and load_waiting(queue, id), nil
    if not job then
        job, reply = load_job(job_key(id))
        if is_malformed(reply) or job and job[F.state] ~= 'available' then
            malformed[id] = true
            want(QUARANTINE)
            return false
        end
    end
    if job and job[F.limit] then look_at_home(job) end
    return job or false
end

-- Reads the heads of the queues, in order, as far as it takes to find enough jobs that can run:
-- ids and queues to take them from; and whether it gave up before that. The first scan loads the
-- jobs. A second one goes no further, as what was promoted in between only comes before or between
-- them: it meets nothing unseen.
local function scan(queues, jobs, wanted)
    local found, live, bytes, budget = {}, 0, 0, wanted + 128
    begin_pass()
    for _, queue in ipairs(queues) do
        local from, most = 0, live + room(queue.gate.meter, wanted - live)
        local open = not queue.gate.shut
        queue.visited = open and live < most
        while open and live < most and budget > 0 and bytes < MOST_BYTES do
            local size = math.min(math.max(most - live, passing and 32 or 0), budget)
            local rows = redis.call('ZRANGE', queue.available, from, from + size - 1, 'WITHSCORES')
            for i = 1, #rows, 2 do
                if bytes >= MOST_BYTES or live >= most then break end
                local id = rows[i]
                if jobs[id] == nil then jobs[id] = load_met(queue, id) end
                local job = jobs[id]
                local alive = job and (not job[F.expires] or tonumber(job[F.expires]) > now)
                local starts = alive and may_start(job)
                if starts then live, bytes = live + 1, bytes + size_of(job) end
                passing = passing or alive and not starts
                found[#found + 1] = {id = id, score = tonumber(rows[i + 1]), queue = queue, job = job,
                    alive = alive, starts = starts}
            end
            open, from, budget = #rows == 2 * size, from + size, budget - size
        end
        queue.last = (live >= most or bytes >= MOST_BYTES) and #found > 0 and found[#found].id
        if live >= wanted or bytes >= MOST_BYTES then break end
    end
    return found, budget <= 0 and live < wanted
end
