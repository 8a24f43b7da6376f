-- The depth bound of a queue: how many jobs may wait in it. The depth counts available jobs, blocked ones
-- included, and scheduled, retryable and pending jobs. An operator's bound is in queue_counters (`bound`, 0 for
-- none) and overrides the server's. Each partition takes its part, rounded up.
local function depth_of(queue, zset, counted)
    local depth = redis.call('ZCARD', zset) + redis.call('ZCARD', queue_blocked_key(queue))
    for _, n in ipairs(counted) do depth = depth + (tonumber(n) or 0) end
    return depth
end

-- Runs before the first write. `bounds`: for each queue '<bound of the server>/<partitions>/<new jobs>',
-- separated by blanks; '' checks nothing. `from`: index in KEYS of the first queue_counters; each is followed
-- by its queue_available. Returns the first queue without room for its jobs: {'full', position, depth, bound}.
local function refuse_full(names, from, bounds)
    local i = 0
    for server_bound, partitions, new in string.gmatch(bounds, '(%d+)/(%d+)/(%d+)') do
        i = i + 1
        local key, zset = KEYS[from + 2 * i - 2], KEYS[from + 2 * i - 1]
        local own_bound, scheduled, retryable, pending = unpack(redis.call('HMGET', key, 'bound', 'scheduled',
            'retryable', 'pending'))
        local bound = tonumber(own_bound or server_bound) or 0
        if bound > 0 and tonumber(new) > 0 then
            local depth = depth_of(names[i], zset, {scheduled, retryable, pending})
            local partition_bound = math.ceil(bound / partitions)
            if depth + new > partition_bound then return {'full', i, depth, partition_bound} end
        end
    end
end
