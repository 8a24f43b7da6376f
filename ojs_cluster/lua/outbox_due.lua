-- Outbox entries of one shard whose next try is due. Changes nothing: an entry leaves by
-- outbox_settle.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the shard's out, 2 ob.  ARGV: 1 limit.
-- Returns: {now, ms of the next try or -1, entries: number, entry, ...}
--@include now
local reply = {now, -1}
for _, number in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
    local entry = redis.call('HGET', KEYS[2], number)
    if entry then
        reply[#reply + 1] = number
        reply[#reply + 1] = entry
    else
        redis.call('ZREM', KEYS[1], number)
    end
end
local first = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[2] then reply[2] = tonumber(first[2]) end
return reply
