-- Writes or removes the defaults of one queue, unless another client has changed them since the caller read them,
-- and tells every process to read the defaults.
-- Pre:  the record is the one that the caller expects, or already the wanted one.
-- Post: the record is the wanted one, under a new version of the hash.
-- Memory: allow-oom; adds 3 KiB per queue, for 1000 queues at most.
-- KEYS: 1 meta queue_defaults.
-- ARGV: 1 queue, 2 expected record ('' none), 3 wanted record ('' none), 4 maximum number of queues, 5 channel.
-- Returns: 'ok' | 'changed' | 'full'
--@include now
local defaults_key, queue, expected, wanted = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local record = redis.call('HGET', defaults_key, queue) or ''
if record == wanted then return 'ok' end
if record ~= expected then return 'changed' end
-- One field of the hash is the version, so `>` and not `>=`.
if record == '' and redis.call('HLEN', defaults_key) > tonumber(ARGV[4]) then return 'full' end
-- A version is never used twice, not even when the hash was deleted in between.
local version = math.max(now, (tonumber(redis.call('HGET', defaults_key, '#')) or 0) + 1)
version = string.format('%.0f', version)
redis.call('HSET', defaults_key, '#', version)
if wanted == '' then redis.call('HDEL', defaults_key, queue)
else redis.call('HSET', defaults_key, queue, wanted) end
redis.call('SPUBLISH', ARGV[5], version)
return 'ok'
