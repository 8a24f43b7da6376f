-- Writes the turns of tenants that a fetch has changed. tenant_turns.lua explains them.

-- Counts a started job.
local function charge_turn(queue, id, job)
    local tenant = queue.turns and job[F.tenant]
    if not tenant then return end
    queue.charged[tenant] = (queue.charged[tenant] or 0) + turn_step(tenant)
    queue.present_turn = math.max(queue.present_turn or 0, queue.turn_of[id] or 0)
end

-- Writes the turns after the fetch.
local function write_turns(queue)
    remove_lowest_turns(queue)
    if not queue.turns then return end
    for tenant, at in pairs(queue.joined) do redis.call('ZADD', queue.turns_key, 'NX', at, tenant) end
    for tenant, turns in pairs(queue.charged) do redis.call('ZINCRBY', queue.turns_key, turns, tenant) end
    if queue.searched_to then redis.call('HSET', queue.counters, 'fair_from', queue.searched_to)
    elseif queue.searching then redis.call('HDEL', queue.counters, 'fair_from') end
    for _, turn in ipairs(queue.ended) do
        -- A tenant whose last job has just started keeps its turn, because it may have had more than its share. It
        -- does not keep the turns that came while it had no jobs. One without jobs is removed.
        if turn.has_jobs and queue.present_turn then
            redis.call('ZADD', queue.turns_key, 'XX', 'GT', queue.present_turn, turn.tenant)
        elseif redis.call('EXISTS', turn.source, parked_jobs_key(queue.name, '', turn.tenant)) == 0 then
            remove_member(queue.turns_key, turn.tenant)
        end
    end
    -- A due job may have become available since the scan found that it was not.
    for _, entry in ipairs(queue.stale) do
        if not redis.call('ZSCORE', entry[1].origin, entry[2]) then remove_member(entry[1].key, entry[2]) end
    end
end
