-- Stores the record of the cluster for a minute, which record_minutes.py has made. The first record of an hour is also
-- stored as the record of the hour.
-- Post: each hash has a fixed number of fields, so a new record replaces an old one.
-- Memory: allow-oom; a record has up to 1 KiB, and there are as many as ARGV[2] and ARGV[3] together.
-- KEYS: 1 history_minutes, 2 history_hours.
-- ARGV: 1 the minute, in Unix minutes, 2 minutes kept, 3 hours kept, 4 the record without its minute.
-- Returns: 1
local minute, hour = tonumber(ARGV[1]), math.floor(tonumber(ARGV[1]) / 60)
local hour_field = string.format('%.0f', hour % tonumber(ARGV[3]))
local stored = redis.call('HGET', KEYS[2], hour_field)
local stored_minute = stored and tonumber(string.match(stored, '^(%d+),'))
local record = ARGV[1] .. ',' .. ARGV[4]
redis.call('HSET', KEYS[1], string.format('%.0f', minute % tonumber(ARGV[2])), record)
if not (stored_minute and math.floor(stored_minute / 60) == hour) then
    redis.call('HSET', KEYS[2], hour_field, record)
end
return 1
