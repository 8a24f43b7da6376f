-- Takes an entry out of a sorted set, in scripts that do so once for each set, or as the last thing
-- done to it: a set that becomes empty vanishes, and a slot that moves refuses it from then on (see
-- look.lua).
local function remove_member(zset, id) redis.call('ZREM', zset, id) end
local function remaining_members(zset) return redis.call('ZCARD', zset) end
