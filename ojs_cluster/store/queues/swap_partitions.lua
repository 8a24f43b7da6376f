-- Compares and sets what the table of partitions says of one queue.
-- Pre:  the table says what the caller has seen, or already what it wants.
-- Memory: allow-oom; adds 400 bytes per queue, of which the table has 1000.
-- KEYS: 1 the table.
-- ARGV: 1 queue ('' all others), 2 what was seen ('' nothing), 3 what is wanted ('' nothing),
--       4 most queues in the table.
-- Returns: {'ok'} | {'changed'} | {'full'}
--@include now
local there = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if there == ARGV[3] then return {'ok'} end
if there ~= ARGV[2] then return {'changed'} end
if there == '' and redis.call('HLEN', KEYS[1]) > tonumber(ARGV[4]) then return {'full'} end
-- Never one that was there before, also when the table was deleted in between.
local version = math.max(now, (tonumber(redis.call('HGET', KEYS[1], '#')) or 0) + 1)
redis.call('HSET', KEYS[1], '#', string.format('%.0f', version))
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1])
else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
return {'ok'}
