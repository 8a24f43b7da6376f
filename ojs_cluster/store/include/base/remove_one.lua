-- Removes a member from a sorted set, for scripts whose last access to each set is a removal: Redis deletes
-- a set that becomes empty, and a moving slot refuses any later access to it (see preflight.lua).
local function remove_member(zset, id) redis.call('ZREM', zset, id) end
local function remaining_members(zset) return redis.call('ZCARD', zset) end
