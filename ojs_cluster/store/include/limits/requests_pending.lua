-- Returns whether a fetch need not request tokens for the blocked jobs of a queue: each of their keys has a pending
-- request, and the full path has refreshed the demand of the queue lately (see request_tokens.lua).
local DEMAND_FRESH_MS = 1000 -- less than DEMAND_MS of limit_grant.lua
local function requests_pending(counters_key)
    local demand_at = tonumber(redis.call('HGET', counters_key, 'demand_at') or 0) or 0
    if now - demand_at >= DEMAND_FRESH_MS then return false end
    local queue = string.sub(counters_key, #PREFIX + 3) -- after the two characters of 'c:'
    local first = redis.call('ZRANGE', token_demand_key(queue), 0, 0, 'WITHSCORES')
    return not first[2] or tonumber(first[2]) >= 0 -- keys without a pending request have negative scores
end
