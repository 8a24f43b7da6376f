-- Transition: none; a running process reads the layout of the data, and reports what it can serve.
-- Post: the record has the time of the last report of a process with this newest layout.
-- Memory: allow-oom; adds 40 bytes for each layout. The next migration removes those of earlier layouts.
-- KEYS: 1 schema.
-- ARGV: 1 newest layout that the process can serve.
-- Returns: names and values of the record's fields; empty and without a write when there is no record
--@include now
local schema = KEYS[1]
local stored = redis.call('HGETALL', schema)
if #stored == 0 then return stored end
redis.call('HSET', schema, 'seen:' .. ARGV[1], string.format('%.0f', now))
return stored
