-- Writes or deletes the record of one worker pool, unless another client has changed it since the caller read it.
-- Pre:  the record is the one that the caller expects, or already the wanted one.
-- Post: the record is the wanted one; its counts begin again, because shares are compared with one configuration.
-- Memory: allow-oom; adds 32 KiB per pool, for 100 pools at most.
-- KEYS: 1 meta pools, 2 meta pool_counts of the pool.
-- ARGV: 1 name, 2 expected record ('' none), 3 wanted record ('' none), 4 maximum number of pools,
--       5 updated_ms of the wanted record.
-- Returns: 'ok' | 'changed' | 'full'
--@include now
local pools_key, counts_key = KEYS[1], KEYS[2]
local name, expected, wanted = ARGV[1], ARGV[2], ARGV[3]
local record = redis.call('HGET', pools_key, name) or ''
if record == wanted then return 'ok' end
if record ~= expected then return 'changed' end
-- One field of the hash is the version, so `>` and not `>=`.
if record == '' and redis.call('HLEN', pools_key) > tonumber(ARGV[4]) then return 'full' end
local counted = redis.call('HKEYS', counts_key)
-- A version is never used twice, not even when the hash was deleted in between.
local version = math.max(now, (tonumber(redis.call('HGET', pools_key, '#')) or 0) + 1)
redis.call('HSET', pools_key, '#', string.format('%.0f', version))
if wanted == '' then
    redis.call('HDEL', pools_key, name)
    redis.call('DEL', counts_key)
else
    redis.call('HSET', pools_key, name, wanted)
    redis.call('HSET', counts_key, '@', ARGV[5])
    for _, field in ipairs(counted) do
        if field ~= '@' then redis.call('HDEL', counts_key, field) end
    end
end
return 'ok'
