-- Returns whether a fetch need not request tokens for the blocked jobs of a queue: the full path has refreshed the
-- demand of the queue lately (see request_tokens.lua), and each of their keys has a pending request, or the fetch
-- finds enough jobs before the first blocked one.
-- `ids`: the first available jobs of the queue. `wanted`: how many jobs the fetch still wants.
local DEMAND_FRESH_MS = 1000 -- less than DEMAND_MS of limit_grant.lua
local function requests_pending(counters_key, available_key, blocked_key, ids, wanted)
    local demand_at = tonumber(redis.call('HGET', counters_key, 'demand_at') or 0) or 0
    if now - demand_at >= DEMAND_FRESH_MS then return false end
    local queue = string.sub(counters_key, #PREFIX + 3) -- after the two characters of 'c:'
    local first = redis.call('ZRANGE', token_demand_key(queue), 0, 0, 'WITHSCORES')
    if not first[2] or tonumber(first[2]) >= 0 then return true end -- keys without a pending request have negative scores
    if not ids or #ids < wanted then return false end
    local best_blocked = redis.call('ZRANGE', blocked_key, 0, 0, 'WITHSCORES')[2]
    return tonumber(redis.call('ZSCORE', available_key, ids[#ids])) < tonumber(best_blocked)
end
