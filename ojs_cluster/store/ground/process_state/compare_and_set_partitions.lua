-- Compares and sets one queue's entry in the partition table.
-- Pre:  the entry is as expected, or already as wanted.
-- Post: the log of changes has the change. It has the last changes without a gap: it starts again after a process
--       of an earlier version has changed the table.
-- Memory: allow-oom; adds 600 bytes per queue; the table is bounded (see partitions.py), and the log has 1000 rows.
-- KEYS: 1 meta partitions, 2 meta partition_changes, 3 meta queues.
-- ARGV: 1 queue ('' the entry for all queues without their own), 2 expected entry ('' none), 3 wanted entry
--       ('' none), 4 maximum number of entries, 5 '1' to change nothing if any queue is registered.
-- Returns: {'ok'} | {'changed'} when the entry is another one, or a queue is registered
--          {'full'} when the table has too many entries
--@include now
local MAX_CHANGES = 1000
local table_key, changes_key, queue, expected, wanted = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local entry, old_version = unpack(redis.call('HMGET', table_key, queue, '#'))
entry = entry or ''
if entry == wanted then return {'ok'} end
if entry ~= expected or ARGV[5] == '1' and redis.call('ZCARD', KEYS[3]) > 0 then return {'changed'} end
if entry == '' and redis.call('HLEN', table_key) > tonumber(ARGV[4]) then return {'full'} end
local last = redis.call('ZRANGE', changes_key, -1, -1, 'WITHSCORES')[2]
-- Field '#' is the version of the table, a time in microseconds: no version is used twice, not even after the table was
-- deleted or a failover has lost changes. Where it is ahead of the clock, the varying step makes the same very unlikely.
local version = math.max(clock[1] * 1000000 + micros, (tonumber(old_version) or 0) + 1 + micros % 1000)
local number = string.format('%.0f', version)
redis.call('HSET', table_key, '#', number)
if wanted == '' then redis.call('HDEL', table_key, queue)
else redis.call('HSET', table_key, queue, wanted) end
redis.call('ZADD', changes_key, number, number .. ' ' .. queue)
if last and last ~= old_version then redis.call('ZREMRANGEBYSCORE', changes_key, '-inf', '(' .. number) end
redis.call('ZREMRANGEBYRANK', changes_key, 0, -MAX_CHANGES - 1)
return {'ok'}
