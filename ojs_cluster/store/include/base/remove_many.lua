-- Removes members from sorted sets, for scripts over several jobs. The removals run at the end of the
-- script, with one command per set: Redis deletes a set that becomes empty, and a moving slot refuses any
-- later access to it (see preflight.lua).
--@include long_lists
local removals = {}
local function remove_member(zset, id)
    local ids = removals[zset]
    if not ids then
        ids = {}
        removals[zset] = ids
    end
    ids[#ids + 1] = id
end

-- Returns the number of members without the pending removals. Call it before the set's next removal.
local function remaining_members(zset) return redis.call('ZCARD', zset) - #(removals[zset] or {}) end

local function flush_removals()
    for zset, ids in pairs(removals) do call_in_slices('ZREM', zset, ids) end
end
