-- The queues of a part of the cron jobs, for a reader that may reach some queues only; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 cronnames.
-- ARGV: 1 lowest and 2 highest score, 3 how many to pass over, 4 most.
-- Returns: name and queue of each, in the order of the list; the queue is '' where none is stored.
--@include keys
local reply = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', ARGV[3], ARGV[4])) do
    reply[#reply + 1] = name
    reply[#reply + 1] = redis.call('HGET', cron_key(name), 'q') or ''
end
return reply
