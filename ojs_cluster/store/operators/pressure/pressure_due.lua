-- Reads which queues were above their warning threshold and must be checked again. Changes nothing.
-- Memory: no-writes.
-- KEYS: 1 meta pressured_queues.
-- ARGV: 1 maximum number of queues.
-- Returns: {now, ms of the next check after these or -1, queues, the one that is due longest first}
--@include now
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local after = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
return {now, after and tonumber(after) or -1, unpack(due)}
