-- Outbox entries of one shard whose next try is due, about a MiB of them. Changes nothing: an entry
-- leaves by outbox_settle.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the shard's out, 2 ob.  ARGV: 1 limit.
-- Returns: {now, ms of the next try or -1, entries: number, entry, ...}
--@include now long_lists
local MOST_BYTES = 1024 * 1024
local reply, bytes, gone = {now, -1}, 0, {}
for _, number in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
    if bytes >= MOST_BYTES then
        reply[2] = now
        break
    end
    local entry = redis.call('HGET', KEYS[2], number)
    if entry then
        reply[#reply + 1] = number
        reply[#reply + 1] = entry
        bytes = bytes + #entry
    else
        gone[#gone + 1] = number
    end
end
local first = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[2] and reply[2] < 0 then reply[2] = tonumber(first[2]) end
-- Last: a set that becomes empty vanishes (see look.lua).
call_in_slices('ZREM', KEYS[1], gone)
return reply
