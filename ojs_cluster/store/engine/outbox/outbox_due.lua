-- Reads outbox entries of one shard whose next attempt is due, until the reply has about 1 MiB. Changes no
-- entry, but removes numbers without an entry from the index.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the index that is read: outbox_due or outbox_waiting, 2 outbox.
-- ARGV: 1 maximum number of entries.
-- Returns: {now, time of the next attempt (ms) or -1, per entry: number, entry}
--@include now long_lists
local INDEX, OUTBOX, limit = KEYS[1], KEYS[2], ARGV[1]
local MAX_BYTES = 1024 * 1024
local reply, bytes, gone = {now, -1}, 0, {}
for _, number in ipairs(redis.call('ZRANGEBYSCORE', INDEX, '-inf', now, 'LIMIT', 0, limit)) do
    if bytes >= MAX_BYTES then
        reply[2] = now
        break
    end
    local entry = redis.call('HGET', OUTBOX, number)
    if entry then
        reply[#reply + 1] = number
        reply[#reply + 1] = entry
        bytes = bytes + #entry
    else
        gone[#gone + 1] = number
    end
end
local first = redis.call('ZRANGEBYSCORE', INDEX, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[2] and reply[2] < 0 then reply[2] = tonumber(first[2]) end
-- Last: a set that becomes empty is deleted (see preflight.lua).
call_in_slices('ZREM', INDEX, gone)
return reply
