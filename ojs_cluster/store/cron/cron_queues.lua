-- Reads the queues of a page of cron jobs, for a reader that may see only some queues.
-- Memory: no-writes.
-- KEYS: 1 cron_names.
-- ARGV: 1 lowest and 2 highest score (0 enabled, 1 disabled), 3 number of cron jobs to skip, 4 maximum number
--       of cron jobs.
-- Returns: name and queue of each cron job, by name; the queue is '' when none is stored.
--@include keys
local NAMES, lowest, highest, skip, limit = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local reply = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', NAMES, lowest, highest, 'LIMIT', skip, limit)) do
    reply[#reply + 1] = name
    reply[#reply + 1] = redis.call('HGET', cron_key(name), 'queue') or ''
end
return reply
