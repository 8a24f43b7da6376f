-- Replaces one webhook subscription, and tells every process to read the subscriptions again.
-- Pre:  the stored record is the expected one, or already the wanted one.
-- Memory: allow-oom; adds 32 KiB per subscription, of which there are at most 100.
-- KEYS: 1 meta webhooks.
-- ARGV: 1 id, 2 expected record ('' none), 3 wanted record ('' none), 4 maximum number of subscriptions,
--       5 channel.
-- Returns: 'ok' | 'changed' | 'full'
--@include now
local webhooks_key, id, expected, wanted, maximum = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local record = redis.call('HGET', webhooks_key, id) or ''
if record == wanted then return 'ok' end
if record ~= expected then return 'changed' end
-- One field of the hash is the version, so `>` and not `>=`.
if record == '' and redis.call('HLEN', webhooks_key) > maximum then return 'full' end
-- A version is never used twice, not even when the hash was deleted in between.
local version = string.format('%.0f', math.max(now, (tonumber(redis.call('HGET', webhooks_key, '#')) or 0) + 1))
redis.call('HSET', webhooks_key, '#', version)
if wanted == '' then redis.call('HDEL', webhooks_key, id)
else redis.call('HSET', webhooks_key, id, wanted) end
redis.call('SPUBLISH', ARGV[5], version)
return 'ok'
