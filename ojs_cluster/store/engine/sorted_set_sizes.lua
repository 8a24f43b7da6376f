-- Reads the sizes of sorted sets; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 and following: sorted sets of one shard.
-- Returns: the number of members of each
local sizes = {}
for i, key in ipairs(KEYS) do sizes[i] = redis.call('ZCARD', key) end
return sizes
