-- Which of the jobs that wait for tokens (hold.lua) ask for one.
local function comes_first(a, b) return a.score < b.score or a.score == b.score and a.id < b.id end

-- The keys of a queue whose jobs may ask, those without an ask under way first, then by the best job.
local function in_turn(queue)
    local order, gone = {}, 0
    for key, state in pairs(waiting[queue.name]) do
        -- Those that the scan has met come in order.
        if state.known then table.sort(state.jobs, comes_first) end
        state.key, state.first = key, state.jobs[1]
        state.asked = redis.call('ZCARD', token_requested_key(queue.name, key))
        if state.first then table.insert(order, state)
        else
            remove_member(queue.thirst, key)
            if state.fresh then gone = gone + 1 end
        end
    end
    table.sort(order, function(a, b)
        local idle = a.asked == 0
        if idle ~= (b.asked == 0) then return idle end
        return comes_first(a.first, b.first)
    end)
    return order, gone
end

-- Asks for tokens, for jobs whose place is not behind `bound`, if any may still start. Returns whether keys
-- are left that have no ask under way.
local function ask_for_tokens(queue, asks, starts, bound)
    local order, gone = in_turn(queue)
    local owed, most = {}, (asks.full or starts == 0) and starts or asks.most
    for _, state in ipairs(order) do
        local unasked, asked = token_unrequested_key(queue.name, state.key), token_requested_key(queue.name, state.key)
        local following, each = nil, (asks.full or state.asked == 0) and asks.each or 0
        -- Better ones of the key may wait that were not looked at.
        local more = not state.known and redis.call('ZSCORE', queue.thirst, state.key)
        for _, job in ipairs(state.jobs) do
            if not more and state.asked < ASKED_MOST and each > 0 and most > 0 and job.score <= bound then
                local number = string.format('%.0f', job.asks + 1)
                state.asked, each, most = state.asked + 1, each - 1, most - 1
                redis.call('HSET', job_key(job.id), F.asks, number, F.asked, number)
                put_in(asked, job.score, job.id)
                put_in(TOKEN_GRANTS, now + ASK_AGAIN_MS, job.id)
                if job.old then remove_member(unasked, job.id) end
                if not owed[job.limit] then table.insert(owed, job.limit) end
                owed[job.limit] = (owed[job.limit] or '') .. ' ' .. job.id .. '/' .. number
            else
                if not job.old then put_in(unasked, job.score, job.id) end
                following = following or job.score
            end
        end
        if following and state.asked < ASKED_MOST then
            local place = following - (state.asked == 0 and UNASKED_FIRST or 0)
            if more then redis.call('ZADD', queue.thirst, 'LT', place, state.key)
            else redis.call('ZADD', queue.thirst, place, state.key) end
        elseif state.known then
            remove_member(queue.thirst, state.key)
            if state.fresh then gone = gone + 1 end
        end
    end
    settle_coming()
    for _, limit in ipairs(owed) do append_effect('token_request', limit .. owed[limit]) end
    return starts > 0 and redis.call('ZCOUNT', queue.thirst, '-inf', '(0') > gone
end
