-- Compares and sets one queue's entry in the partition table.
-- Pre:  the entry is as expected, or already as wanted.
-- Memory: allow-oom; adds 400 bytes per queue; the table has at most 1000 queues.
-- KEYS: 1 meta partitions.
-- ARGV: 1 queue ('' the entry for all queues without their own), 2 expected entry ('' none), 3 wanted entry
--       ('' none), 4 maximum number of entries.
-- Returns: {'ok'} | {'changed'} when the entry is another one | {'full'} when the table has too many entries
--@include now
local table_key, queue, expected, wanted, max_entries = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local entry = redis.call('HGET', table_key, queue) or ''
if entry == wanted then return {'ok'} end
if entry ~= expected then return {'changed'} end
if entry == '' and redis.call('HLEN', table_key) > max_entries then return {'full'} end
-- Field '#' is the version of the table. No version is used twice, not even after the table was deleted.
local version = math.max(now, (tonumber(redis.call('HGET', table_key, '#')) or 0) + 1)
redis.call('HSET', table_key, '#', string.format('%.0f', version))
if wanted == '' then redis.call('HDEL', table_key, queue)
else redis.call('HSET', table_key, queue, wanted) end
return {'ok'}
