-- A fetch of one tenant starts jobs without a turn. Where all workers take the jobs of one tenant, no other fetch
-- removes turns. So it looks at its tenant and two others by chance, and removes those that have no jobs and the lowest
-- turn: they lose nothing, because a tenant joins with the lowest turn.

-- Finds which of these tenants have the lowest turn. Runs before the first write.
local function find_lowest_turns(queue, tenant)
    local first = redis.call('ZRANGE', queue.turns_key, 0, 0, 'WITHSCORES')
    if not first[1] then return end
    local rank = now % redis.call('ZCARD', queue.turns_key)
    local tenants = redis.call('ZRANGE', queue.turns_key, rank, rank + 1)
    tenants[#tenants + 1], queue.lowest = tenant, {}
    for _, name in ipairs(tenants) do
        if redis.call('ZSCORE', queue.turns_key, name) == first[2]
            and redis.call('EXISTS', parked_jobs_key(queue.name, '', name)) == 0 then
            queue.lowest[name] = tenant_queue_key(queue.name, name)
            preflight_key(queue.lowest[name])
        end
    end
end

local function remove_lowest_turns(queue)
    for tenant, source in pairs(queue.lowest or {}) do
        if remaining_members(source) <= 0 and not queue.has_parked then remove_member(queue.turns_key, tenant) end
    end
end
