-- The depth bound of a queue: the maximum number of waiting jobs. The depth counts available jobs (blocked jobs
-- included), scheduled, retryable and pending jobs. The bound that an operator has set is in queue_counters
-- (`bound`, 0 for none) and overrides OJS_MAX_QUEUE_DEPTH. Each of P partitions may hold 1/P of the bound,
-- rounded up. `overflow` says what a full queue does, and from which part of the bound on clients are warned:
-- '<strategy>:<threshold>', by default 'reject:0.8'.
local function depth_of(queue, available_key, counters)
    local depth = redis.call('ZCARD', available_key) + redis.call('ZCARD', queue_blocked_key(queue))
    for _, n in ipairs(counters) do depth = depth + (tonumber(n) or 0) end
    return depth
end

-- Runs before the first write.
-- names:  the queues.
-- keys:   a list that has queue_counters and queue_available of each queue, from index `from` on.
-- bounds: '<OJS_MAX_QUEUE_DEPTH>/<partitions>/<new jobs>' of each queue, separated by blanks; '' for no check.
-- Returns {'full', position in `names`, depth, bound of this partition, strategy} for the first queue that would
-- exceed its bound, {'draining', position} for one that takes no new jobs, otherwise nil; and for the last queue
-- above its warning threshold {depth with the new jobs, bound of this partition}.
local function refuse_full(names, keys, from, bounds)
    local i, pressure = 0, nil
    for server_bound, partitions, new in string.gmatch(bounds, '(%d+)/(%d+)/(%d+)') do
        i = i + 1
        local counters_key, available_key = keys[from + 2 * i - 2], keys[from + 2 * i - 1]
        local own_bound, overflow, draining, scheduled, retryable, pending = unpack(redis.call('HMGET',
            counters_key, 'bound', 'overflow', 'draining', 'scheduled', 'retryable', 'pending'))
        if draining then return {'draining', i} end
        local bound = tonumber(own_bound or server_bound) or 0
        if bound > 0 and tonumber(new) > 0 then
            local depth = depth_of(names[i], available_key, {scheduled, retryable, pending})
            local partition_bound = math.ceil(bound / partitions)
            local strategy, threshold = string.match(overflow or '', '^([%l_]+):([%d.]+)$')
            if depth + new > partition_bound then
                return {'full', i, depth, partition_bound, strategy or 'reject'}
            end
            if depth + new > (tonumber(threshold) or 0.8) * partition_bound then
                pressure = {depth + new, partition_bound}
            end
        end
    end
    return nil, pressure
end
