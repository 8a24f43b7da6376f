-- The blocked jobs of a queue, for fetch.lua.
--@include find_parked
local DEMAND_FRESH_MS = 1000 -- less than DEMAND_MS of limit_grant.lua

-- Returns whether a fetch need not request tokens for the blocked jobs of a queue: the full path has refreshed the
-- demand of the queue lately (see request_tokens.lua), and each of their keys has a pending request, or the fetch
-- finds enough jobs before the first blocked one.
-- `ids`: the first available jobs of the queue. `wanted`: how many jobs the fetch still wants.
local function requests_pending(queue, ids, wanted)
    local demand_at = tonumber(redis.call('HGET', queue_counters_key(queue), 'demand_at') or 0) or 0
    if now - demand_at >= DEMAND_FRESH_MS then return false end
    local first = redis.call('ZRANGE', token_demand_key(queue), 0, 0, 'WITHSCORES')
    -- Keys without a pending request have negative scores.
    if not first[2] or tonumber(first[2]) >= 0 then return true end
    if #ids == 0 or #ids < wanted then return false end
    local best_blocked = redis.call('ZRANGE', queue_blocked_key(queue), 0, 0, 'WITHSCORES')[2]
    return tonumber(redis.call('ZSCORE', queue_available_key(queue), ids[#ids])) < tonumber(best_blocked)
end

-- Returns whether the full path must serve the blocked jobs of a queue, and whether some of them wait for tokens.
-- `types`: as in find_parked.lua. `ids`, `wanted`: see requests_pending.
local function check_blocked_jobs(queue, types, ids, wanted)
    if find_parked(queue, types, '')[1] then return true, false end
    local waiting = waits_for_tokens(queue, queue_blocked_key(queue))
    return waiting and not requests_pending(queue, ids, wanted), waiting
end
