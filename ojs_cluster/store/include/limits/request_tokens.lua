-- Requests tokens for blocked jobs. block_for_token.lua describes the blocked jobs and the budget.
local function is_before(a, b) return a.score < b.score or a.score == b.score and a.id < b.id end

-- Returns the rate limit keys of a queue whose jobs may request tokens. Keys without a pending request come
-- first; apart from that, the order is that of the first blocked job of each key. Also returns how many of the
-- keys without a pending request have no blocked job any more.
local function keys_in_order(queue)
    local order, emptied = {}, 0
    for key, state in pairs(blocked_jobs[queue.name]) do
        -- Jobs that this script has blocked are in order. Only jobs read from Redis may be out of order.
        if state.read then table.sort(state.jobs, is_before) end
        state.key, state.first = key, state.jobs[1]
        state.requested = redis.call('ZCARD', token_requested_key(queue.name, key))
        if state.first then table.insert(order, state)
        else
            remove_member(queue.demand, key)
            if state.idle then emptied = emptied + 1 end
        end
    end
    table.sort(order, function(a, b)
        local idle = a.requested == 0
        if idle ~= (b.requested == 0) then return idle end
        return is_before(a.first, b.first)
    end)
    return order, emptied
end

-- Requests tokens for jobs with a score up to `max_score`. `starts`: number of jobs of the queue that may still
-- start. Returns whether blocked jobs remain under a key without a pending request, but false to a fetch of one
-- tenant: these jobs may be those of others.
local function request_tokens(queue, budget, starts, max_score)
    local order, emptied = keys_in_order(queue)
    local requests = {} -- list of packed limits; also packed limit -> its requests as text
    -- With `any_key` (see request_budget), or when the queue may start no job, the queue requests only as many
    -- tokens as it may start jobs.
    local requests_left = (budget.any_key or starts == 0) and starts or budget.max_requests
    for _, state in ipairs(order) do
        local unrequested = token_unrequested_key(queue.name, state.key)
        local requested = token_requested_key(queue.name, state.key)
        local next_score, left_of_key = nil, (budget.any_key or state.requested == 0) and budget.per_key or 0
        -- The key may have blocked jobs with a lower score, which this fetch has not read. They request first.
        local unread = not state.read and redis.call('ZSCORE', queue.demand, state.key)
        for _, job in ipairs(state.jobs) do
            local may_request = not (unread or job.is_other) and state.requested < MAX_OPEN_REQUESTS
                and job.score <= max_score
            if may_request and left_of_key > 0 and requests_left > 0 then
                local number = string.format('%.0f', job.requests + 1)
                state.requested = state.requested + 1
                left_of_key, requests_left = left_of_key - 1, requests_left - 1
                redis.call('HSET', job_key(job.id), F.token_request_count, number, F.open_token_request, number)
                add_later(requested, job.score, job.id)
                add_later(TOKEN_GRANTS, now + REQUEST_AGAIN_MS, job.id)
                if job.is_unrequested then remove_member(unrequested, job.id) end
                if not requests[job.limit] then table.insert(requests, job.limit) end
                requests[job.limit] = (requests[job.limit] or '') .. ' ' .. job.id .. '/' .. number
            else
                if not job.is_unrequested then add_later(unrequested, job.score, job.id) end
                next_score = next_score or job.score
            end
        end
        if next_score and state.requested < MAX_OPEN_REQUESTS then
            local score = next_score - (state.requested == 0 and UNREQUESTED_FIRST or 0)
            if unread then redis.call('ZADD', queue.demand, 'LT', score, state.key)
            else redis.call('ZADD', queue.demand, score, state.key) end
        elseif state.read then
            remove_member(queue.demand, state.key)
            if state.idle then emptied = emptied + 1 end
        end
    end
    flush_additions()
    for _, limit in ipairs(requests) do append_effect('token_request', limit .. requests[limit]) end
    -- Keys without a pending request have negative scores. ZCOUNT still counts the emptied ones, because
    -- remove_member (remove_many.lua) removes them at the end of the script.
    return starts > 0 and queue.source == queue.available
        and redis.call('ZCOUNT', queue.demand, '-inf', '(0') > emptied
end
