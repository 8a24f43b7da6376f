-- Takes entries out of sorted sets, in scripts over several jobs: kept back to the end, and then
-- one command for each set. One that becomes empty vanishes, and a slot that moves refuses it from
-- then on (see look.lua).
--@include long_lists
local leaving = {}
local function remove_member(zset, id)
    local ids = leaving[zset]
    if not ids then
        ids = {}
        leaving[zset] = ids
    end
    ids[#ids + 1] = id
end

-- How many entries a set has that are not taken out. To be called before one is.
local function remaining_members(zset) return redis.call('ZCARD', zset) - #(leaving[zset] or {}) end

local function flush_removals()
    for zset, ids in pairs(leaving) do call_in_slices('ZREM', zset, ids) end
end
