-- Removes error groups without a failure for a long time.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 error_groups, 2 error_group_times.
-- ARGV: 1 ms for which a group is kept after its last failure, 2 maximum number of groups.
-- Returns: number of removed groups
--@include now
local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])
for _, group in ipairs(old) do redis.call('HDEL', KEYS[1], group) end
for _, group in ipairs(old) do redis.call('ZREM', KEYS[2], group) end
return #old
