-- Transition: position -> next position, or running -> finished, for a migration.
-- Pre: the migration is at the given position. Another leader may have advanced it: then nothing changes.
-- Post: the position is stored, and the changed records are counted. When finished, all data has the new layout.
-- Memory: allow-oom; adds 300 bytes.
-- KEYS: 1 schema.
-- ARGV: 1 layout, 2 position, 3 cursor, 4 next position, -1 when finished, 5 its cursor, 6 changed records.
-- Returns: 1 if the position was stored, else 0
--@include now
local schema, version = KEYS[1], ARGV[1]
local stored = redis.call('HMGET', schema, 'version', 'oldest', 'position', 'cursor')
if stored[1] ~= version or stored[2] == version then return 0 end
if (stored[3] or '0') ~= ARGV[2] or (stored[4] or '') ~= ARGV[3] then return 0 end
redis.call('HINCRBY', schema, 'changed', ARGV[6])
if ARGV[4] == '-1' then
    redis.call('HDEL', schema, 'position', 'cursor')
    redis.call('HSET', schema, 'oldest', version, 'finished', string.format('%.0f', now))
else
    redis.call('HSET', schema, 'position', ARGV[4], 'cursor', ARGV[5])
end
return 1
