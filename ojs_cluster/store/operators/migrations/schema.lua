-- Transition: none -> recorded, for the layout of the data, when the cluster is first used.
-- Post: the record exists; an existing one is unchanged. Of two processes on an empty cluster one records.
-- Memory: deny-oom.
-- KEYS: 1 schema.
-- ARGV: 1 layout that this server writes, 2 number of shards that it is configured for.
-- Returns: {version, shards, oldest} of the data; the last is false if no migration has begun
local schema, version, shards = KEYS[1], ARGV[1], ARGV[2]
local stored = redis.call('HMGET', schema, 'version', 'shards', 'oldest')
if stored[1] and stored[2] then return stored end
redis.call('HSETNX', schema, 'version', version)
redis.call('HSETNX', schema, 'shards', shards)
return redis.call('HMGET', schema, 'version', 'shards', 'oldest')
