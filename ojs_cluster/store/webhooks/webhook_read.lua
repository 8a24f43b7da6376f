-- Reads all webhook subscriptions, unless the caller has their current version. Changes nothing.
-- Memory: no-writes.
-- KEYS: 1 meta webhooks.  ARGV: 1 the version that the caller has, '' for none.
-- Returns: {now, version ('' while none was ever stored)} | {now, version, all fields}
--@include now
local webhooks_key, known_version = KEYS[1], ARGV[1]
local version = redis.call('HGET', webhooks_key, '#') or ''
if version == known_version then return {now, version} end
return {now, version, redis.call('HGETALL', webhooks_key)}
