-- Adds members to sorted sets together, at the end of a script.
local additions = {} -- sorted set -> scores and members to add

local function add_later(zset, score, id)
    local list = additions[zset] or {}
    additions[zset] = list
    list[#list + 1], list[#list + 2] = score, id
end

local function flush_additions()
    for zset, list in pairs(additions) do call_in_slices('ZADD', zset, list) end
    additions = {}
end
