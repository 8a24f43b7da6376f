-- The bound on the depth of a queue: how many jobs may wait in it. Depth: available, those that wait for
-- a token included, scheduled, retryable and pending. An operator's bound is in c: (`bound`, 0 for none) and holds
-- over that of the server. Each partition takes its share, rounded up.
local function depth_of(queue, zset, counted)
    local depth = redis.call('ZCARD', zset) + redis.call('ZCARD', queue_blocked_key(queue))
    for _, n in ipairs(counted) do depth = depth + (tonumber(n) or 0) end
    return depth
end

-- Before the first write. `terms`: of each queue '<bound of the server>/<partitions>/<new jobs>' between
-- blanks, '' where nothing is refused. `from`: the first of KEYS 'c: and q:' of each queue.
-- Returns the first queue that has no room for its jobs: {'full', position, depth, bound}.
local function refuse_full(names, from, terms)
    local i = 0
    for own, parts, new in string.gmatch(terms, '(%d+)/(%d+)/(%d+)') do
        i = i + 1
        local key, zset = KEYS[from + 2 * i - 2], KEYS[from + 2 * i - 1]
        local bound, scheduled, retryable, pending = unpack(redis.call('HMGET', key, 'bound', 'scheduled',
            'retryable', 'pending'))
        local most = tonumber(bound or own) or 0
        if most > 0 and tonumber(new) > 0 then
            local depth = depth_of(names[i], zset, {scheduled, retryable, pending})
            local share = math.ceil(most / parts)
            if depth + new > share then return {'full', i, depth, share} end
        end
    end
end
