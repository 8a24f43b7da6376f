-- Dead letters of a queue are capped: when one comes in, the oldest leave the list at once. The
-- janitor, which also knows how to take back an alias in another shard, removes the jobs
-- themselves. More than one leaves only after the setting was lowered, and then some at each death.
local graves = {}

-- Looks at those that may have to leave when up to `coming` jobs of the queue die.
local function look_at_graves(queue, coming, most)
    local key = queue_dead_key(queue)
    want(key)
    look()
    local there = redis.call('ZCARD', key)
    local over, oldest, jobs = there + coming - most, {}, {}
    if over > 0 then
        oldest = redis.call('ZRANGE', key, 0, math.min(over, coming + 100) - 1)
        for _, id in ipairs(oldest) do
            local found = redis.call('HMGET', job_key(id), F.workflow, F.fixed, F.finished)
            jobs[id] = {[F.workflow] = found[1], [F.fixed] = found[2], [F.finished] = found[3]}
            want(job_key(id))
        end
        look()
    end
    graves[queue] = {there = there, oldest = oldest, jobs = jobs, all = #oldest == there, next = 1}
end

-- A job that has just died joins the list.
local function bury(id, job, most)
    local key, list = queue_dead_key(job[F.queue]), graves[job[F.queue]]
    redis.call('ZADD', DEAD, now, id)
    redis.call('ZADD', key, now, id)
    list.there = list.there + 1
    if list.all then table.insert(list.oldest, id) end
    list.jobs[id] = job
    while list.there > most and list.oldest[list.next] do
        local old = list.oldest[list.next]
        list.next, list.there = list.next + 1, list.there - 1
        take_out(DEAD, old)
        take_out(key, old)
        redis.call('HDEL', job_key(old), F.dead)
        redis.call('ZADD', FINISHED, removal_of(list.jobs[old], 0), old)
    end
end

-- Looks at what may be touched when attempts end that count. `ends`: pairs of a job and its fate.
local function look_at_ends(ends, most)
    local deaths = {}
    for _, pair in ipairs(ends) do
        local queue = pair[1][F.queue]
        want(queue_counters_key(queue))
        want(queue_minutes_key(queue))
        if pair[2] == 'dead_letter' then deaths[queue] = (deaths[queue] or 0) + 1 end
    end
    look()
    for queue, coming in pairs(deaths) do look_at_graves(queue, coming, most) end
end
