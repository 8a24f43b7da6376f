-- Removes a member from a sorted set at once, for scripts that do not access the set afterwards. Redis deletes
-- a set that becomes empty, and a node whose slot moves refuses any later access to it (see preflight.lua).
-- Scripts over several jobs include remove_many.lua instead, which has functions of the same names.
local function remove_member(zset, id) redis.call('ZREM', zset, id) end
-- Returns how many members a set has. Call it before the set's removal, which may delete the set.
local function remaining_members(zset) return redis.call('ZCARD', zset) end
