-- Reads the queues and tenants of a page of cron jobs, for a reader that may see only some of them.
-- Memory: no-writes.
-- KEYS: 1 cron_names.
-- ARGV: 1 lowest and 2 highest score (0 enabled, 1 disabled), 3 number of cron jobs to skip, 4 maximum number
--       of cron jobs.
-- Returns: name, score, queue and tenant of each cron job, by name; '' for a value that is not stored,
--          or if the cron job's key has another type.
--@include keys
local NAMES, lowest, highest, skip, limit = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local reply = {}
local names = redis.call('ZRANGEBYSCORE', NAMES, lowest, highest, 'WITHSCORES', 'LIMIT', skip, limit)
for i = 1, #names, 2 do
    local name = names[i]
    reply[#reply + 1] = name
    reply[#reply + 1] = names[i + 1]
    local key, found = cron_key(name), {}
    if redis.call('TYPE', key).ok == 'hash' then found = redis.call('HMGET', key, 'queue', 'tenant') end
    reply[#reply + 1] = found[1] or ''
    reply[#reply + 1] = found[2] or ''
end
return reply
