-- Transition: older -> newer, for a shard's copy of the layout.
-- Post: the copy exists, and none of its numbers is smaller than before or than given.
-- Memory: allow-oom; adds 100 bytes once.
-- KEYS: 1 schema.
-- ARGV: 1 version, 2 number of shards, 3 oldest layout in the data.
-- Returns: 1 if the copy has changed, else 0
local schema, version, shards, oldest = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local stored = redis.call('HMGET', schema, 'version', 'shards', 'oldest')
local stored_version, stored_oldest = tonumber(stored[1] or 0), tonumber(stored[3] or 0)
if stored_version >= tonumber(version) and stored_oldest >= tonumber(oldest) then return 0 end
redis.call('HSET', schema, 'shards', shards,
    'version', math.max(stored_version, tonumber(version)), 'oldest', math.max(stored_oldest, tonumber(oldest)))
return 1
