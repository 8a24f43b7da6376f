-- Records that a process of the server runs, or that it has ended.
-- Post: the process is in both keys, or in neither. Processes whose last report is ARGV[3] ms old, and the
--       oldest of more than MAX_PROCESSES, are in neither.
-- Memory: allow-oom; adds 400 bytes per process, 1000 at most.
-- KEYS: 1 processes (by identity), 2 process_reports (scored by the ms of the last report).
-- ARGV: 1 identity, 2 description as JSON, '' for a process that ends, 3 time until a silent process counts as
--       ended (ms).
-- Returns: 1
--@include now
local MAX_PROCESSES, MAX_REMOVED = 1000, 500
local processes, reports = KEYS[1], KEYS[2]
local identity, description, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
redis.call('HEXISTS', processes, identity)
local ended = redis.call('ZRANGEBYSCORE', reports, '-inf', now - ttl, 'LIMIT', 0, MAX_REMOVED)
local surplus = redis.call('ZCARD', reports) - #ended - MAX_PROCESSES + 1
if surplus > 0 and description ~= '' then
    ended = redis.call('ZRANGE', reports, 0, math.min(#ended + surplus, MAX_REMOVED) - 1)
end
if description == '' then ended[#ended + 1] = identity end
if ended[1] then
    redis.call('ZREM', reports, unpack(ended))
    redis.call('HDEL', processes, unpack(ended))
end
if description ~= '' then
    redis.call('ZADD', reports, now, identity)
    redis.call('HSET', processes, identity, description)
    redis.call('PEXPIRE', reports, ttl)
    redis.call('PEXPIRE', processes, ttl)
end
return 1
