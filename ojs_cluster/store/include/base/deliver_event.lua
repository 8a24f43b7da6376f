-- Appends an event to the deliveries of each webhook subscription that selects it. Without active subscriptions
-- ARGV[1] is only the length of the event stream. Otherwise ARGV[1] has three parts, separated by blanks: that
-- length, the maximum number of pending deliveries of a subscription in this shard, and the result of `pack`
-- (core/webhooks.py). Redis creates all functions of a script at each call. So this file creates its functions
-- only when there are subscriptions.
local deliver_event
if not tonumber(ARGV[1]) then
    local max_pending, packed = string.match(ARGV[1], '^%d+ (%d+) (.*)$')
    local subscriptions, last, texts = cmsgpack.unpack(packed), nil, nil
    -- The preflight of the keys that add_delivery writes (see preflight.lua).
    local keys = {WEBHOOK_DELIVERIES, WEBHOOK_DUE, WEBHOOK_COUNTS}
    for _, each in ipairs(subscriptions) do keys[#keys + 1] = webhook_pending_key(each[1]) end
    redis.call('EXISTS', KEYS[1], unpack(keys))

    -- Adds texts as `<length>:<text>` (store/webhooks/deliveries.py splits them).
    local function add_texts(...)
        for _, value in ipairs({...}) do
            if type(value) == 'number' then value = string.format('%.17g', value) end
            texts[#texts + 1] = #value .. ':' .. value
        end
    end

    -- Returns the number of a new delivery. A failover may lose the last numbers. The lower bound by the clock
    -- prevents that such a number is used again.
    local function next_number()
        last = last or tonumber(redis.call('HGET', WEBHOOK_DELIVERIES, 'seq')) or 0
        if not (last < 2 ^ 52) then last = 0 end -- malformed: doubles above 2^53 cannot count by ones
        last = math.max(last + 1, now * 1000)
        return string.format('%.0f', last)
    end

    local function add_delivery(id, position, kind, job_id, job_type, queue, more)
        local pending = webhook_pending_key(id)
        if redis.call('ZCARD', pending) >= tonumber(max_pending) then
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
        for _, subscription in ipairs(subscriptions) do
            local id, kinds, queues, types = unpack(subscription, 1, 4)
            if (not kinds or kinds[kind]) and (not queues or queues[queue])
                and (not types or types[job_type]) then
                -- A position that several jobs share gets the number of the job as a suffix.
                local job_number, remaining_ids = 0, ids
                repeat
                    local first, others = string.match(remaining_ids, '^(%S+) (.+)$')
                    job_number = job_number + 1
                    local job_position = position
                    if first and position ~= '' then job_position = position .. '-' .. job_number end
                    add_delivery(id, job_position, kind, first or remaining_ids, job_type, queue, more)
                    remaining_ids = others
                until not remaining_ids
            end
        end
    end
end
