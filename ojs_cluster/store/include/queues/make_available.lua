-- Puts a job into its queue. The score is the start of the priority's band (priority_base.lua), plus the next
-- number of the queue's counter `seq`. `front`: put the job before all others of its priority, with number 0;
-- several such jobs are in the order of their ids. A damaged counter restarts at the present time in ms, which
-- is above every number that it has given.
--@include long_lists priority_base tenant_queue
local function make_available(id, job, front)
    local queue = job[F.queue]
    local number = front and 0 or increment(queue_counters_key(queue), 'seq', 1, now)
    local zset = queue_available_key(queue)
    local score = band_of(job[F.priority] or 0) + number
    redis.call('ZADD', zset, score, id)
    if job[F.tenant] then
        index_for_tenant(id, job, score)
        count_for_tenant(job, 'available', 1)
    end
    -- Wakes a worker only when the queue stops being empty. Each worker that gets a job wakes the next, so a
    -- busy queue publishes nothing.
    if redis.call('ZCARD', zset) == 1 then redis.call('SPUBLISH', WAKE_CHANNEL, queue) end
    if job[F.expires] then set_deadline(EXPIRING, id, tonumber(job[F.expires])) end
end

-- For many jobs: `add_arrival` collects a job, and `add_arrivals` the jobs ids[from] to ids[to], which have the
-- fields of `job`. `flush_arrivals` puts them into their queues in that order. That takes three commands for each
-- queue, and one more for each 2000 of its jobs.
local arrivals = {} -- queue -> band, id, band, id, ...
local tenant_arrivals = {} -- id -> job, of jobs with a tenant
local function add_arrival(id, job)
    local list = arrivals[job[F.queue]] or {}
    local length = #list
    list[length + 1], list[length + 2] = band_of(job[F.priority] or 0), id
    arrivals[job[F.queue]] = list
    if job[F.tenant] then tenant_arrivals[id] = job end
end

local function add_arrivals(ids, from, to, job)
    local list, band = arrivals[job[F.queue]] or {}, band_of(job[F.priority] or 0)
    local length = #list
    for i = from, to do
        list[length + 1], list[length + 2] = band, ids[i]
        length = length + 2
    end
    arrivals[job[F.queue]] = list
    for i = from, job[F.tenant] and to or 0 do tenant_arrivals[ids[i]] = job end
end

local function flush_arrivals()
    for queue, list in pairs(arrivals) do
        local zset, arrived = queue_available_key(queue), #list / 2
        local number_before = increment(queue_counters_key(queue), 'seq', arrived, now) - arrived
        for i = 1, #list, 2 do list[i] = list[i] + number_before + (i + 1) / 2 end
        call_in_slices('ZADD', zset, list)
        for i = 2, next(tenant_arrivals) and #list or 0, 2 do
            local job = tenant_arrivals[list[i]]
            if job then
                index_for_tenant(list[i], job, list[i - 1])
                count_for_tenant(job, 'available', 1)
            end
        end
        if redis.call('ZCARD', zset) == arrived then redis.call('SPUBLISH', WAKE_CHANNEL, queue) end
    end
    arrivals, tenant_arrivals = {}, {}
end
