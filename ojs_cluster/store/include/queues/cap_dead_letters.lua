-- Caps the dead letters of a queue: when a job joins them, the oldest leave the list at once. The janitor
-- removes the jobs themselves, because it can also remove an alias in another shard. More than one leaves
-- only after the cap was lowered, and then a limited number with each new dead letter.
local dead_letter_lists = {}

-- Reads the dead letters that may have to leave when up to `coming` jobs join them.
local function preflight_dead_letters(queue, coming, most)
    local key = queue_dead_key(queue)
    preflight_key(key)
    run_preflight()
    local size = redis.call('ZCARD', key)
    local over, oldest, jobs = size + coming - most, {}, {}
    if over > 0 then
        oldest = redis.call('ZRANGE', key, 0, math.min(over, coming + 100) - 1)
        for _, id in ipairs(oldest) do
            local found = redis.call('HMGET', job_key(id), F.workflow, F.fixed, F.finished)
            jobs[id] = {[F.workflow] = found[1], [F.fixed] = found[2], [F.finished] = found[3]}
            preflight_key(job_key(id))
        end
        run_preflight()
    end
    dead_letter_lists[queue] = {size = size, oldest = oldest, jobs = jobs, all = #oldest == size,
        next = 1}
end

-- Adds a job that has just been discarded.
local function add_dead_letter(id, job, most)
    local key, list = queue_dead_key(job[F.queue]), dead_letter_lists[job[F.queue]]
    redis.call('ZADD', DEAD, now, id)
    redis.call('ZADD', key, now, id)
    list.size = list.size + 1
    if list.all then table.insert(list.oldest, id) end
    list.jobs[id] = job
    while list.size > most and list.oldest[list.next] do
        local old = list.oldest[list.next]
        list.next, list.size = list.next + 1, list.size - 1
        remove_member(DEAD, old)
        remove_member(key, old)
        redis.call('HDEL', job_key(old), F.dead)
        redis.call('ZADD', FINISHED, removal_time(list.jobs[old], 0), old)
    end
end

-- Reads what failed attempts may touch. `failures`: pairs of a job and the decision about it.
local function preflight_failures(failures, most)
    local dead_by_queue = {}
    for _, pair in ipairs(failures) do
        local queue = pair[1][F.queue]
        preflight_key(queue_counters_key(queue))
        preflight_key(queue_minutes_key(queue))
        if pair[2] == 'dead_letter' then dead_by_queue[queue] = (dead_by_queue[queue] or 0) + 1 end
    end
    run_preflight()
    for queue, coming in pairs(dead_by_queue) do preflight_dead_letters(queue, coming, most) end
end
