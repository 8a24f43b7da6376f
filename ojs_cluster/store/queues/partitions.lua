-- How many partitions queues have, unless the caller knows already; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 the table.  ARGV: 1 the version that the caller has, '' for none.
-- Returns: {now, version ('' while there is no table)} | {now, version, all fields}
--@include now
local version = redis.call('HGET', KEYS[1], '#') or ''
if version == ARGV[1] then return {now, version} end
return {now, version, redis.call('HGETALL', KEYS[1])}
