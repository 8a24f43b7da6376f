-- Takes back the starts that the limits of a queue counted when jobs were fetched that have not started, where that
-- is exact (see create_limiters.lua). A max_per_second that jobs declare keeps the start: it does not record since
-- when it counts, and it forgets the start after a second.
--@include_where_used create_limiters count_starts
local unstarted = {} -- queue -> ms at which its released jobs were fetched
local function uncount_queue_start(job)
    local queue = job[F.queue]
    unstarted[queue] = unstarted[queue] or {}
    table.insert(unstarted[queue], tonumber(job[F.started]))
end

-- Writes the collected changes. Waiting fetches read the queues again.
local function flush_unstarted()
    for queue, started in pairs(unstarted) do
        local key = queue_counters_key(queue)
        local limits, starts, next_start, limited_at =
            unpack(redis.call('HMGET', key, 'limits', 'starts', 'next_start', 'limited_at'))
        if limits then
            local limiters, active = {}, 0
            add_limiters(limiters, limits, active, starts, next_start)
            local fields = uncount_starts(limiters, started, is_number(limited_at) and tonumber(limited_at) or 0)
            if #fields > 0 then
                redis.call('HSET', key, unpack(fields))
                wake_queue(queue)
            end
        end
    end
end
