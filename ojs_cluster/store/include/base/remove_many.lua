-- Removes members from sorted sets, for scripts over several jobs. Redis deletes a set that becomes empty, and
-- a node whose slot moves refuses any later access to it (see preflight.lua). So the removals are collected
-- and run at the end of the script, with one command per set.
--@include long_lists
local removals = {} -- sorted set -> members to remove
local function remove_member(zset, id)
    local ids = removals[zset]
    if not ids then
        ids = {}
        removals[zset] = ids
    end
    ids[#ids + 1] = id
end

-- Returns how many members a set will have after the removals that are collected so far.
local function remaining_members(zset) return redis.call('ZCARD', zset) - #(removals[zset] or {}) end

local function flush_removals()
    for zset, ids in pairs(removals) do call_in_slices('ZREM', zset, ids) end
end
