-- Appends an event to the deliveries of each webhook subscription that selects it. While subscriptions are
-- active, ARGV[1] of every script that appends events has, after the length of the stream and a blank, the most
-- deliveries that may be pending, a blank, and what the subscriptions select (pack in core/webhooks.py). Without
-- subscriptions there is no function, which costs nothing: Redis would create it at each call.
local deliver_event
if not tonumber(ARGV[1]) then
    local most, packed = string.match(ARGV[1], '^%d+ (%d+) (.*)$')
    local subscriptions, last, texts = cmsgpack.unpack(packed), nil, nil
    local derived = {WEBHOOK_DELIVERIES, WEBHOOK_DUE, WEBHOOK_COUNTS}
    for _, each in ipairs(subscriptions) do derived[#derived + 1] = webhook_pending_key(each[1]) end
    redis.call('EXISTS', KEYS[1], unpack(derived)) -- before the first write: see preflight.lua

    -- Each text after its length and a colon (store/webhooks/deliveries.py splits them).
    local function add_texts(...)
        for _, value in ipairs({...}) do
            if type(value) == 'number' then value = string.format('%.17g', value) end
            texts[#texts + 1] = #value .. ':' .. value
        end
    end

    -- Numbers grow with the time, so that a failover, which may lose the last ones, repeats none.
    local function next_number()
        last = last or tonumber(redis.call('HGET', WEBHOOK_DELIVERIES, 'seq')) or 0
        if not (last < 2 ^ 52) then last = 0 end
        last = math.max(last + 1, now * 1000)
        return string.format('%.0f', last)
    end

    local function add_delivery(id, position, kind, job_id, job_type, queue, more)
        local pending = webhook_pending_key(id)
        if redis.call('ZCARD', pending) >= tonumber(most) then
            redis.pcall('HINCRBY', WEBHOOK_COUNTS, 'full:' .. id, 1)
            redis.pcall('HINCRBY', WEBHOOK_COUNTS, 'full:', 1)
            return
        end
        texts = {}
        add_texts(id, position, 't', kind, 'j', job_id, 'y', job_type, 'q', queue, unpack(more))
        local number = next_number()
        redis.call('HSET', WEBHOOK_DELIVERIES, number, table.concat(texts), 'seq', number)
        redis.call('ZADD', pending, now, number)
        if redis.call('ZADD', WEBHOOK_DUE, 'LT', 'CH', now, id) == 1 then
            redis.call('SPUBLISH', SCHEDULE_CHANNEL, string.format('%.0f', now))
        end
    end

    deliver_event = function(position, kind, ids, job_type, queue, more)
        for _, each in ipairs(subscriptions) do
            local kinds, queues, types = each[2], each[3], each[4]
            if (not kinds or kinds[kind]) and (not queues or queues[queue]) and (not types or types[job_type]) then
                local place, rest = 0, ids
                repeat
                    local first, others = string.match(rest, '^(%S+) (.+)$')
                    place = place + 1
                    local at = position
                    if first and at ~= '' then at = at .. '-' .. place end
                    add_delivery(each[1], at, kind, first or rest, job_type, queue, more)
                    rest = others
                until not rest
            end
        end
    end
end
