-- Reads all webhook subscriptions, unless the caller has their current version.
-- Memory: no-writes.
-- KEYS: 1 meta webhooks.  ARGV: 1 the version that the caller has, '' for none.
-- Returns: {now, version ('' before the first subscription)} | {now, version, all fields}
--@include now
local webhooks_key, known_version = KEYS[1], ARGV[1]
local version = redis.call('HGET', webhooks_key, '#') or '' -- the other fields are ids of subscriptions
if version == known_version then return {now, version} end
return {now, version, redis.call('HGETALL', webhooks_key)}
