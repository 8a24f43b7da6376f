-- Returns a function that appends an event to the deliveries of webhook subscriptions: 500 bytes each, beyond what
-- the line `-- Memory:` of a script says. `setting`: the length of the event stream, the maximum number of pending
-- deliveries of a subscription, and of fields of webhook_deliveries, and the result of `pack` (core/webhooks.py).
-- Redis creates the outer functions of a script at each call. The inner ones are created for subscriptions only.
local function open_deliveries(setting)
    local max_pending, max_stored, packed = string.match(setting, '^%d+ (%d+) (%d+) (.*)$')
    local subscriptions, last, announced, pending_count = cmsgpack.unpack(packed), nil, {}, {}
    local stored_free, part = nil, math.floor(max_stored / #subscriptions) -- of a subscription in a full shard
    local derived = {WEBHOOK_DELIVERIES, WEBHOOK_DUE, WEBHOOK_COUNTS}
    for _, each in ipairs(subscriptions) do derived[#derived + 1] = webhook_pending_key(each[1]) end
    redis.call('EXISTS', DECLARED_KEY, unpack(derived)) -- before the first write: see preflight.lua

    -- Joins texts, each after its length and a colon (store/features/webhooks/deliveries.py splits them).
    local function join_texts(...)
        local texts = {...}
        for i, value in ipairs(texts) do
            if type(value) == 'number' then value = string.format('%.17g', value) end
            texts[i] = #value .. ':' .. value
        end
        return table.concat(texts)
    end

    -- Returns the position and the job id of each event of an entry, as they are stored. `ids`: '' without a job.
    local function split_entry(position, ids)
        if not string.find(ids, ' ', 1, true) then return {{join_texts(position), join_texts('j', ids)}} end
        local texts = {}
        for id in string.gmatch(ids, '%S+') do
            texts[#texts + 1] = {join_texts(position ~= '' and position .. '-' .. #texts + 1 or ''), join_texts('j', id)}
        end
        texts[#texts][1] = join_texts(position) -- the last event of an entry has no number
        return texts
    end

    -- A failover may lose the last numbers. The lower bound by the clock prevents that one is used again.
    local function next_number()
        last = last or tonumber(redis.call('HGET', WEBHOOK_DELIVERIES, 'seq')) or 0
        last = math.max((last < 2 ^ 52 and last or 0) + 1, now * 1000) -- doubles above 2^53 cannot count by ones
        return string.format('%.0f', last)
    end

    -- `texts` has per event its position and its job id; `before` and `behind` are the same for all of them.
    local function add_deliveries(id, texts, before, behind)
        local pending = webhook_pending_key(id)
        pending_count[id] = pending_count[id] or redis.call('ZCARD', pending)
        stored_free = stored_free or max_stored - redis.call('HLEN', WEBHOOK_DELIVERIES)
        local most = math.min(max_pending - pending_count[id], math.max(stored_free, part - pending_count[id]))
        local added = math.max(0, math.min(#texts, most))
        for _, name in ipairs(added < #texts and {'full:' .. id, 'full:'} or {}) do
            redis.pcall('HINCRBY', WEBHOOK_COUNTS, name, #texts - added)
        end
        pending_count[id], stored_free = pending_count[id] + added, stored_free - added
        if added == 0 then return end
        local stored, members, subscription = {}, {}, join_texts(id)
        for i = 1, added do
            local number = next_number()
            members[2 * i - 1], members[2 * i], stored[2 * i - 1] = now, number, number
            stored[2 * i] = subscription .. texts[i][1] .. before .. texts[i][2] .. behind
        end
        stored[#stored + 1], stored[#stored + 2] = 'seq', members[#members]
        redis.call('HSET', WEBHOOK_DELIVERIES, unpack(stored))
        redis.call('ZADD', pending, unpack(members))
        if not announced[id] and redis.call('ZADD', WEBHOOK_DUE, 'LT', 'CH', now, id) == 1 then
            redis.call('SPUBLISH', SCHEDULE_CHANNEL, string.format('%.0f', now))
        end
        announced[id] = true
    end

    return function(position, kind, ids, job_type, queue, more)
        local texts, behind
        for _, each in ipairs(subscriptions) do
            local kinds, queues, types = each[2], each[3], each[4]
            if (not kinds or kinds[kind]) and (not queues or queues[queue]) and (not types or types[job_type]) then
                texts = texts or split_entry(position, ids)
                behind = behind or join_texts('y', job_type, 'q', queue, unpack(more))
                add_deliveries(each[1], texts, join_texts('t', kind), behind)
            end
        end
    end
end
