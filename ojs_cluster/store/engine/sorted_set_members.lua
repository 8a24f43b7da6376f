-- Reads the members of sorted sets in the order of their scores; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 and following: sorted sets of one shard.
-- ARGV: 1 and following: for each set, the maximum number of its members.
-- Returns: the list of members of each
local members = {}
for i, key in ipairs(KEYS) do members[i] = redis.call('ZRANGE', key, 0, ARGV[i] - 1) end
return members
