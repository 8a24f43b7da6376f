-- Reads the partition table, unless the caller has its current version. Changes nothing.
-- Memory: no-writes.
-- KEYS: 1 meta partitions.
-- ARGV: 1 the version of the table that the caller has, '' for none.
-- Returns: {now, version} when the caller has this version; the version is '' while there is no table
--          {now, version, all fields} otherwise
--@include now
local table_key, known_version = KEYS[1], ARGV[1]
local version = redis.call('HGET', table_key, '#') or ''
if version == known_version then return {now, version} end
return {now, version, redis.call('HGETALL', table_key)}
