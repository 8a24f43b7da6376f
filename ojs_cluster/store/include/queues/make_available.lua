-- Puts a job into its queue. The score orders by priority (high first), then by the queue's own counter. It
-- stays an exact integer: 201 priorities x 2^45 < 2^53. `front` returns a job to the place it had: before the
-- counter's first value, with ties in id order. A damaged counter restarts at the present ms, which is above
-- every place it has given.
--@include long_lists priority_base
local function make_available(id, job, front)
    local queue = job[F.queue]
    local place = front and 0 or increment(queue_counters_key(queue), 'seq', 1, now)
    local zset = queue_available_key(queue)
    redis.call('ZADD', zset, band_of(job[F.priority] or 0) + place, id)
    -- Wakes a worker only when the queue stops being empty. Each worker that gets a job wakes the next, so a
    -- busy queue publishes nothing.
    if redis.call('ZCARD', zset) == 1 then redis.call('SPUBLISH', WAKE_CHANNEL, queue) end
    if job[F.expires] then set_deadline(EXPIRING, id, tonumber(job[F.expires])) end
end

-- Many at once: jobs passed to `add_arrival` enter their queues in `flush_arrivals`, in that order, with three
-- commands for each queue, and one more for each 2000 of its jobs.
local arrivals = {}
local function add_arrival(id, job)
    local queue = job[F.queue]
    local list = arrivals[queue]
    if not list then
        list = {}
        arrivals[queue] = list
    end
    list[#list + 1] = band_of(job[F.priority] or 0)
    list[#list + 1] = id
end

local function flush_arrivals()
    for queue, list in pairs(arrivals) do
        local zset, arrived = queue_available_key(queue), #list / 2
        local place = increment(queue_counters_key(queue), 'seq', arrived, now) - arrived
        for i = 1, #list, 2 do list[i] = list[i] + place + (i + 1) / 2 end
        call_in_slices('ZADD', zset, list)
        if redis.call('ZCARD', zset) == arrived then redis.call('SPUBLISH', WAKE_CHANNEL, queue) end
    end
    arrivals = {}
end
