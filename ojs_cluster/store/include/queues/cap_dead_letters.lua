-- Dead letters of a queue are capped: when one comes in, the oldest leave the list at once. The
-- janitor, which also knows how to take back an alias in another shard, removes the jobs
-- themselves. More than one leaves only after the setting was lowered, and then some at each death.
local dead_letter_lists = {}

-- Looks at those that may have to leave when up to `coming` jobs of the queue die.
local function preflight_dead_letters(queue, coming, most)
    local key = queue_dead_key(queue)
    preflight_key(key)
    run_preflight()
    local there = redis.call('ZCARD', key)
    local over, oldest, jobs = there + coming - most, {}, {}
    if over > 0 then
        oldest = redis.call('ZRANGE', key, 0, math.min(over, coming + 100) - 1)
        for _, id in ipairs(oldest) do
            local found = redis.call('HMGET', job_key(id), F.workflow, F.fixed, F.finished)
            jobs[id] = {[F.workflow] = found[1], [F.fixed] = found[2], [F.finished] = found[3]}
            preflight_key(job_key(id))
        end
        run_preflight()
    end
    dead_letter_lists[queue] = {there = there, oldest = oldest, jobs = jobs, all = #oldest == there, next = 1}
end

-- A job that has just died joins the list.
local function add_dead_letter(id, job, most)
    local key, list = queue_dead_key(job[F.queue]), dead_letter_lists[job[F.queue]]
    redis.call('ZADD', DEAD, now, id)
    redis.call('ZADD', key, now, id)
    list.there = list.there + 1
    if list.all then table.insert(list.oldest, id) end
    list.jobs[id] = job
    while list.there > most and list.oldest[list.next] do
        local old = list.oldest[list.next]
        list.next, list.there = list.next + 1, list.there - 1
        remove_member(DEAD, old)
        remove_member(key, old)
        redis.call('HDEL', job_key(old), F.dead)
        redis.call('ZADD', FINISHED, removal_time(list.jobs[old], 0), old)
    end
end

-- Looks at what may be touched when attempts end that count. `ends`: pairs of a job and its fate.
local function preflight_failures(ends, most)
    local deaths = {}
    for _, pair in ipairs(ends) do
        local queue = pair[1][F.queue]
        preflight_key(queue_counters_key(queue))
        preflight_key(queue_minutes_key(queue))
        if pair[2] == 'dead_letter' then deaths[queue] = (deaths[queue] or 0) + 1 end
    end
    run_preflight()
    for queue, coming in pairs(deaths) do preflight_dead_letters(queue, coming, most) end
end
