-- Writes or deletes the record of one worker pool, unless another client has changed it since the caller read it.
-- Pre:  the record is the one that the caller expects, or already the wanted one.
-- Post: the record is the wanted one; its counts begin again, because shares are compared with one configuration.
-- Memory: allow-oom; adds 32 KiB per pool, for 100 pools at most.
-- KEYS: 1 meta pools, 2 meta pool_counts of the pool.
-- ARGV: 1 name, 2 expected record ('' none), 3 wanted record ('' none), 4 maximum number of pools,
--       5 updated_ms of the wanted record.
-- Returns: 'ok' | 'changed' | 'full'
--@include replace_record
local counts_key, wanted = KEYS[2], ARGV[3]
local counted = redis.call('HKEYS', counts_key)
local reply, version = replace_record(KEYS[1], ARGV[1], ARGV[2], wanted, tonumber(ARGV[4]))
if not version then return reply end
if wanted == '' then
    redis.call('DEL', counts_key)
else
    redis.call('HSET', counts_key, '@', ARGV[5])
    for _, field in ipairs(counted) do
        if field ~= '@' then redis.call('HDEL', counts_key, field) end
    end
end
return reply
