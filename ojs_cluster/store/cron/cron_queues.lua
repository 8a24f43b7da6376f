-- Reads the queues of some cron jobs, for a reader that may see some queues only. Changes nothing.
-- Memory: no-writes.
-- KEYS: 1 cron_names.
-- ARGV: 1 lowest and 2 highest score, 3 how many to skip, 4 limit.
-- Returns: name and queue of each, in the order of the list; the queue is '' where none is stored.
--@include keys
local NAMES, lowest, highest, skip, limit = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local reply = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', NAMES, lowest, highest, 'LIMIT', skip, limit)) do
    reply[#reply + 1] = name
    reply[#reply + 1] = redis.call('HGET', cron_key(name), 'queue') or ''
end
return reply
