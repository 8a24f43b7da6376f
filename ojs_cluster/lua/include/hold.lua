-- Jobs that need a token of their rate limit's key before they may start (docs/adr/011): fetch holds
-- them back, with the place that they had, and asks the key's shard for tokens.
local ASKED_MOST, KEYS_MOST = 100, 16
local ASK_AGAIN_MS = 300 * 1000 -- an ask may be lost with a master: see limit_return.lua
local waiting = {} -- queue -> key -> what is known of the jobs that wait for its tokens

-- Reads, before the first write, the best of a queue's jobs that may ask: `most`, and one more.
local function look_at_waiting(queue, most)
    local keys = {}
    waiting[queue.name] = keys
    for _, key in ipairs(redis.call('ZRANGE', queue.thirst, 0, KEYS_MOST - 1)) do
        if most <= 0 then break end
        local unasked = unasked_key(queue.name, key)
        local rows, jobs = redis.call('ZRANGE', unasked, 0, most, 'WITHSCORES'), {}
        for i = 1, #rows, 2 do
            local found = redis.call('HMGET', job_key(rows[i]), F.limit, F.asks)
            if found[1] then
                table.insert(jobs, {id = rows[i], score = tonumber(rows[i + 1]), limit = found[1],
                    asks = found[2] or 0, old = true})
            else
                want(job_key(rows[i]))
            end
        end
        keys[key] = {jobs = jobs, known = true}
        most = most - #jobs
        for _, name in ipairs({unasked, asked_key(queue.name, key), GRANTED, OUTBOX, OUT}) do want(name) end
    end
end

-- A job that was met leaves the available ones for those that wait.
local function hold_back(queue, id, job)
    local key, score = limit_of(job), tonumber(redis.call('ZSCORE', queue.available, id))
    local keys = waiting[queue.name]
    keys[key] = keys[key] or {jobs = {}}
    table.insert(keys[key].jobs, {id = id, score = score, limit = job[F.limit],
        asks = job[F.asks] or 0})
    take_out(queue.available, id)
    redis.call('ZADD', queue.held, score, id)
end

local function comes_first(a, b) return a.score < b.score or a.score == b.score and a.id < b.id end

-- Asks for at most `most` tokens, for jobs whose place is not behind `bound`.
local function ask_for_tokens(queue, most, bound)
    local order, owed = {}, {}
    for key, state in pairs(waiting[queue.name]) do
        table.sort(state.jobs, comes_first)
        state.key, state.first = key, state.jobs[1]
        if state.first then table.insert(order, state)
        else take_out(queue.thirst, key) end
    end
    table.sort(order, function(a, b) return comes_first(a.first, b.first) end)
    for _, state in ipairs(order) do
        local unasked, asked = unasked_key(queue.name, state.key), asked_key(queue.name, state.key)
        local free, following = ASKED_MOST - redis.call('ZCARD', asked), nil
        -- Better ones of the key may wait that were not looked at.
        local more = not state.known and redis.call('ZSCORE', queue.thirst, state.key)
        for _, job in ipairs(state.jobs) do
            if not more and free > 0 and most > 0 and job.score <= bound then
                local number = string.format('%.0f', job.asks + 1)
                free, most = free - 1, most - 1
                redis.call('HSET', job_key(job.id), F.asks, number, F.asked, number)
                redis.call('ZADD', asked, job.score, job.id)
                redis.call('ZADD', GRANTED, now + ASK_AGAIN_MS, job.id)
                if job.old then take_out(unasked, job.id) end
                if not owed[job.limit] then table.insert(owed, job.limit) end
                owed[job.limit] = (owed[job.limit] or '') .. ' ' .. job.id .. '/' .. number
            else
                if not job.old then redis.call('ZADD', unasked, job.score, job.id) end
                following = following or job.score
            end
        end
        if following and free > 0 then redis.call('ZADD', queue.thirst, 'LT', following, state.key)
        elseif state.known then take_out(queue.thirst, state.key) end
    end
    for _, limit in ipairs(owed) do owe('ask', limit .. owed[limit]) end
end
