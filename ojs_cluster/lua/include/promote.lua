-- Scheduled and retryable jobs whose time has come become available, or expire if that came first.
-- Thousands may be due at one moment, so only what is a job's own is done per job (read, state,
-- event); its queue's counters, places, set and wake-up are seen to once per queue.
local PROMOTED = {F.queue, F.state, F.type, F.priority, F.expires}

-- Of a job that will only be promoted: no more than that takes. The envelope stays where it is.
local function load_brief(key)
    local job, found = {}, redis.call('HMGET', key, unpack(PROMOTED))
    for i, name in ipairs(PROMOTED) do job[name] = found[i] or nil end
    if not job[F.state] or job[F.expires] and tonumber(job[F.expires]) <= now then
        return load_job(key)
    end
    return job
end

-- Looks at what is due: ids in the order of their time, and the jobs; `whole` when they are to be
-- returned to somebody.
local function look_at_due(limit, whole)
    local ids, jobs = redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, limit), {}
    for _, id in ipairs(ids) do
        local job = (whole and load_job or load_brief)(job_key(id)) or false
        jobs[id] = job
        if job then
            want(queue_key(job[F.queue]))
            want(available_key(job[F.queue]))
        end
    end
    if #ids > 0 then look() end
    return ids, jobs
end

-- What leaves the due set enters its queue: places in the order of `entering`, one command each
-- for the queue's counters, its set and its waiters.
local function enter_queue(queue, entering, leaving_states)
    for state, jobs in pairs(leaving_states) do count(queue, state, -jobs) end
    local zset, arrived = available_key(queue), #entering / 2
    if arrived == 0 then return end
    local place = redis.call('HINCRBY', queue_key(queue), 'seq', arrived) - arrived
    for i = 1, #entering, 2 do entering[i] = entering[i] + place + (i + 1) / 2 end
    redis.call('ZADD', zset, unpack(entering))
    if redis.call('ZCARD', zset) == arrived then redis.call('SPUBLISH', WAKE, queue) end
end

-- At most 1000 ids: they are unpacked onto Lua's stack.
local function promote_due(ids, jobs, keep_discarded_ms)
    local queues = {}
    for _, id in ipairs(ids) do
        take_out(DUE, id)
        local key, job = job_key(id), jobs[id]
        if job then
            local queue, state = job[F.queue], job[F.state]
            local into = queues[queue] or {entering = {}, states = {}}
            queues[queue] = into
            into.states[state] = (into.states[state] or 0) + 1
            if job[F.expires] and tonumber(job[F.expires]) <= now then
                take_out(EXPIRING, id)
                expire(id, key, job, keep_discarded_ms)
            else
                into.entering[#into.entering + 1] = (100 - (job[F.priority] or 0)) * BAND
                into.entering[#into.entering + 1] = id
                if job.flat then save_job(key, job, F.state, 'available', F.enqueued, now)
                else redis.call('HSET', key, F.state, 'available', F.enqueued, now) end
                emit('job.enqueued', id, job)
            end
        end
    end
    for queue, into in pairs(queues) do enter_queue(queue, into.entering, into.states) end
end
