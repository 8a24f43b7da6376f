-- The layout of the data, written once when the cluster is first used. Later starts only read it.
-- Memory: deny-oom.
-- KEYS: 1 the schema hash.  ARGV: 1 schema version, 2 number of shards.
-- Returns: {schema version, number of shards} that the data has
local there = redis.call('HMGET', KEYS[1], 'version', 'shards')
if there[1] and there[2] then return there end
redis.call('HSETNX', KEYS[1], 'version', ARGV[1])
redis.call('HSETNX', KEYS[1], 'shards', ARGV[2])
return redis.call('HMGET', KEYS[1], 'version', 'shards')
