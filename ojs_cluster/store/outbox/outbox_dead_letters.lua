-- A page of one shard's parked outbox entries, oldest first, about a MiB of them; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 the shard's parked, 2 ob.  ARGV: 1 lowest score, 2 entries of that score to skip, 3 limit.
-- Returns: per entry: number, ms of its last try, entry, why it failed or ''
local rows = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'WITHSCORES',
    'LIMIT', ARGV[2], ARGV[3])
local MOST_BYTES = 1024 * 1024
local reply, bytes = {}, 0
for i = 1, #rows, 2 do
    if bytes >= MOST_BYTES then break end
    local found = redis.call('HMGET', KEYS[2], rows[i], 'e' .. rows[i])
    if found[1] then
        bytes = bytes + #found[1]
        for _, piece in ipairs({rows[i], rows[i + 1], found[1], found[2] or ''}) do
            reply[#reply + 1] = piece
        end
    end
end
return reply
