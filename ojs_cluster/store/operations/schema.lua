-- Record the layout of the data when the cluster is first used, and read the recorded layout at later starts.
-- Memory: deny-oom.
-- KEYS: 1 schema.
-- ARGV: 1 schema version of this server, 2 number of shards that it is configured for.
-- Returns: {schema version, number of shards} of the data
local schema, version, shards = KEYS[1], ARGV[1], ARGV[2]
local stored = redis.call('HMGET', schema, 'version', 'shards')
if stored[1] and stored[2] then return stored end
redis.call('HSETNX', schema, 'version', version)
redis.call('HSETNX', schema, 'shards', shards)
return redis.call('HMGET', schema, 'version', 'shards')
