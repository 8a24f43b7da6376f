-- Returns the lowest score that a sorted set will have after `flush_removals` (remove_many.lua), or nil when it
-- will be empty.
local function lowest_remaining(zset)
    local removed = {}
    for _, id in ipairs(removals[zset] or {}) do removed[id] = true end
    local rows = redis.call('ZRANGE', zset, 0, #(removals[zset] or {}), 'WITHSCORES')
    for i = 1, #rows, 2 do
        if not removed[rows[i]] then return tonumber(rows[i + 1]) end
    end
end
