-- Transition: off <-> on, for maintenance mode.
-- Post: the mode is on with the given fields, and began when it was first switched on; or it is off.
-- Memory: allow-oom; adds 1 KiB.
-- KEYS: 1 maintenance.
-- ARGV: 1 '1' to switch it on, '' to switch it off, then names and values of the fields.
-- Returns: the fields, none when it is off
--@include now
local MAINTENANCE = KEYS[1]
if ARGV[1] == '' then
    redis.call('DEL', MAINTENANCE)
    return {}
end
local since = tonumber(redis.pcall('HGET', MAINTENANCE, 'since') or '')
redis.call('DEL', MAINTENANCE)
redis.call('HSET', MAINTENANCE, 'since', string.format('%.0f', since or now), unpack(ARGV, 2))
return redis.call('HGETALL', MAINTENANCE)
