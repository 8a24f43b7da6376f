-- Postpones members of an index that cannot be handled now, so that they do not delay the other members.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 an index by the time at which each member is due.
-- ARGV: 1 time of the next try in ms, then the members.
-- Returns: number of members
local index, next_try_ms = KEYS[1], ARGV[1]
for i = 2, #ARGV do redis.call('ZADD', index, 'XX', next_try_ms, ARGV[i]) end
return #ARGV - 1
