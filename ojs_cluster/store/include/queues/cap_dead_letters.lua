-- Limits the number of dead letters of a queue: when a job becomes a dead letter, the oldest ones leave the
-- list. The janitor removes the jobs themselves, because only it can remove an alias in another shard. After
-- the maximum number was lowered, several leave with each new dead letter.
local dead_letter_lists = {} -- queue -> the dead letters that may leave (see preflight_dead_letters)

-- Reads the oldest dead letters, which may have to leave when up to `added` jobs become dead letters.
-- `max_size`: maximum number of dead letters of a queue.
local function preflight_dead_letters(queue, added, max_size)
    local key = queue_dead_key(queue)
    preflight_key(key)
    run_preflight()
    local size = redis.call('ZCARD', key)
    local excess, oldest, jobs = size + added - max_size, {}, {}
    if excess > 0 then
        local MAX_FURTHER = 100 -- bounds the time of this script after max_size was lowered
        oldest = redis.call('ZRANGE', key, 0, math.min(excess, added + MAX_FURTHER) - 1)
        for _, id in ipairs(oldest) do
            local found = redis.call('HMGET', job_key(id), F.workflow, F.fixed_id, F.finished)
            jobs[id] = {[F.workflow] = found[1], [F.fixed_id] = found[2], [F.finished] = found[3]}
            preflight_key(job_key(id))
        end
        run_preflight()
    end
    -- `oldest`: ids, of which those from index `next` on have not left. `has_all`: `oldest` is the whole list.
    dead_letter_lists[queue] = {size = size, oldest = oldest, jobs = jobs, has_all = #oldest == size,
        next = 1}
end

-- Adds a job that has just been discarded, and removes the oldest dead letters above `max_size`.
local function add_dead_letter(id, job, max_size)
    local key, list = queue_dead_key(job[F.queue]), dead_letter_lists[job[F.queue]]
    redis.call('ZADD', DEAD, now, id)
    redis.call('ZADD', key, now, id)
    list.size = list.size + 1
    if list.has_all then table.insert(list.oldest, id) end
    list.jobs[id] = job
    while list.size > max_size and list.oldest[list.next] do
        local old = list.oldest[list.next]
        list.next, list.size = list.next + 1, list.size - 1
        remove_member(DEAD, old)
        remove_member(key, old)
        redis.call('HDEL', job_key(old), F.dead)
        redis.call('ZADD', FINISHED, removal_time(list.jobs[old], 0), old)
    end
end

-- Reads the keys that failed attempts may write. `failures`: pairs of a job and the decision about it (see
-- decide_failure.lua).
local function preflight_failures(failures, max_dead_letters)
    local dead_by_queue = {}
    if #failures > 0 then preflight_key(ERROR_GROUPS) preflight_key(ERROR_GROUP_TIMES) end
    for _, pair in ipairs(failures) do
        local queue = pair[1][F.queue]
        preflight_key(queue_counters_key(queue))
        preflight_key(queue_minutes_key(queue))
        if pair[2] == 'dead_letter' then dead_by_queue[queue] = (dead_by_queue[queue] or 0) + 1 end
    end
    run_preflight()
    for queue, added in pairs(dead_by_queue) do preflight_dead_letters(queue, added, max_dead_letters) end
end
