-- Adds fine times of jobs of all queues to the records of the present minute and hour of the cluster.
-- Post: each hash has a fixed number of such fields, so a new record replaces an old one.
-- Memory: allow-oom; a record has up to 6 KiB (mostly 500 bytes), and there are as many as ARGV[1] and ARGV[2] together.
-- KEYS: 1 history_minutes, 2 history_hours.
-- ARGV: 1 minutes kept, 2 hours kept, 3 the fine times.
-- Returns: 1
--@include now fine_times
-- A record of a minute has the number of the next one, at whose start it is complete, and one of an hour has its own.
local minute, hour = math.floor(now / 60000) + 1, math.floor(now / 3600000)
local minute_field = 'f' .. string.format('%.0f', minute % tonumber(ARGV[1]))
local hour_field = 'f' .. string.format('%.0f', hour % tonumber(ARGV[2]))
local of_minute = with_times(redis.call('HGET', KEYS[1], minute_field), minute, ARGV[3])
local of_hour = with_times(redis.call('HGET', KEYS[2], hour_field), hour, ARGV[3])
redis.call('HSET', KEYS[1], minute_field, of_minute)
redis.call('HSET', KEYS[2], hour_field, of_hour)
return 1
