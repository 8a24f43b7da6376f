-- Gives a waiting job another priority.
--@include priority_base record_history

-- Returns the sorted sets that order an available job, and its rate limit key, if it has one. Reads each of them.
local function preflight_order(job)
    local queue, limited = job[F.queue], job[F.limit] and limit_of(job)
    local zsets = {queue_available_key(queue), queue_blocked_key(queue)}
    if limited then
        zsets[3], zsets[4] = token_unrequested_key(queue, limited), token_requested_key(queue, limited)
    end
    for _, zset in ipairs(job[F.parked] and parked_keys(job) or {}) do zsets[#zsets + 1] = zset end
    if job[F.tenant] then zsets[#zsets + 1] = tenant_queue_key(queue, job[F.tenant]) end
    for _, zset in ipairs(zsets) do preflight_key(zset) end
    return zsets, limited
end

-- Stores another priority, and moves the job to its place of arrival among the jobs of this priority. `zsets`,
-- `limited`: as preflight_order has returned them.
local function move_to_priority(id, job, priority, zsets, limited)
    local key, before = job_key(id), job[F.priority] or 0
    -- In each of these sets, the job has the same score: its priority's band plus its order of arrival.
    local shift = band_of(priority) - band_of(before)
    if job[F.state] == 'available' and shift ~= 0 then
        for _, zset in ipairs(zsets) do
            local place = redis.call('ZSCORE', zset, id)
            if place then redis.call('ZADD', zset, string.format('%.0f', place + shift), id) end
        end
        if limited then update_token_demand(job[F.queue], limited, redis.call('ZCARD', zsets[4]) == 0) end
    end
    if shift ~= 0 then
        record_history(key, job, 'priority', string.format(',"from":%.0f,"to":%.0f', before, priority))
    end
    save_job(key, job, F.priority, priority)
end
