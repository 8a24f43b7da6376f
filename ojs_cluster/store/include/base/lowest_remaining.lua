-- The lowest score that `flush_removals` (last.lua) will leave in a set, or nil.
local function lowest_remaining(zset)
    local gone = {}
    for _, id in ipairs(leaving[zset] or {}) do gone[id] = true end
    local rows = redis.call('ZRANGE', zset, 0, #(leaving[zset] or {}), 'WITHSCORES')
    for i = 1, #rows, 2 do
        if not gone[rows[i]] then return tonumber(rows[i + 1]) end
    end
end
