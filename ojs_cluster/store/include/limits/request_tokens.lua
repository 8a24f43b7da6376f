-- Requests tokens for blocked jobs (block_for_token.lua).
local function is_before(a, b) return a.score < b.score or a.score == b.score and a.id < b.id end

-- Returns the keys of a queue whose jobs may request tokens: first those without a pending request, then by
-- their best job. Also returns how many of the idle keys have no job left.
local function keys_in_order(queue)
    local order, gone = {}, 0
    for key, state in pairs(blocked_jobs[queue.name]) do
        -- Jobs that the scan has blocked come in order.
        if state.read then table.sort(state.jobs, is_before) end
        state.key, state.first = key, state.jobs[1]
        state.requested = redis.call('ZCARD', token_requested_key(queue.name, key))
        if state.first then table.insert(order, state)
        else
            remove_member(queue.demand, key)
            if state.idle then gone = gone + 1 end
        end
    end
    table.sort(order, function(a, b)
        local idle = a.requested == 0
        if idle ~= (b.requested == 0) then return idle end
        return is_before(a.first, b.first)
    end)
    return order, gone
end

-- Requests tokens for jobs with a score up to `max_score`. `starts`: jobs of the queue that may still start.
-- Returns whether keys are left that have no pending request.
local function request_tokens(queue, budget, starts, max_score)
    local order, gone = keys_in_order(queue)
    local requests, most = {}, (budget.full or starts == 0) and starts or budget.most
    for _, state in ipairs(order) do
        local unrequested = token_unrequested_key(queue.name, state.key)
        local requested = token_requested_key(queue.name, state.key)
        local next_score, each = nil, (budget.full or state.requested == 0) and budget.each or 0
        -- Better jobs of the key may be blocked that this fetch has not read.
        local unread = not state.read and redis.call('ZSCORE', queue.demand, state.key)
        for _, job in ipairs(state.jobs) do
            local may_request = not unread and state.requested < MAX_OPEN_REQUESTS and job.score <= max_score
            if may_request and each > 0 and most > 0 then
                local number = string.format('%.0f', job.requests + 1)
                state.requested, each, most = state.requested + 1, each - 1, most - 1
                redis.call('HSET', job_key(job.id), F.token_request_count, number, F.open_token_request, number)
                add_later(requested, job.score, job.id)
                add_later(TOKEN_GRANTS, now + REQUEST_AGAIN_MS, job.id)
                if job.old then remove_member(unrequested, job.id) end
                if not requests[job.limit] then table.insert(requests, job.limit) end
                requests[job.limit] = (requests[job.limit] or '') .. ' ' .. job.id .. '/' .. number
            else
                if not job.old then add_later(unrequested, job.score, job.id) end
                next_score = next_score or job.score
            end
        end
        if next_score and state.requested < MAX_OPEN_REQUESTS then
            local place = next_score - (state.requested == 0 and UNREQUESTED_FIRST or 0)
            if unread then redis.call('ZADD', queue.demand, 'LT', place, state.key)
            else redis.call('ZADD', queue.demand, place, state.key) end
        elseif state.read then
            remove_member(queue.demand, state.key)
            if state.idle then gone = gone + 1 end
        end
    end
    flush_additions()
    for _, limit in ipairs(requests) do append_effect('token_request', limit .. requests[limit]) end
    return starts > 0 and redis.call('ZCOUNT', queue.demand, '-inf', '(0') > gone
end
