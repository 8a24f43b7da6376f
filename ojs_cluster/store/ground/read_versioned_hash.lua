-- Reads a hash whose field '#' is its version, unless the caller has the current version.
-- Memory: no-writes.
-- KEYS: 1 a hash: meta webhooks, meta job_schemas, meta queue_defaults, meta pools or meta tenants.
-- ARGV: 1 the version that the caller has, '' for none.
-- Returns: {now, version ('' before the first write)} | {now, version, all fields}
--@include now
local hash_key, known_version = KEYS[1], ARGV[1]
local version = redis.call('HGET', hash_key, '#') or ''
if version == known_version then return {now, version} end
return {now, version, redis.call('HGETALL', hash_key)}
