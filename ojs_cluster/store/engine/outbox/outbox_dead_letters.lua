-- Reads a page of one shard's outbox dead letters, oldest first. The page ends after about 1 MiB.
-- Memory: no-writes.
-- KEYS: 1 outbox_dead_letters, 2 outbox.
-- ARGV: 1 lowest score, 2 number of entries with that score to skip, 3 maximum number of entries.
-- Returns: per entry: number, time of its last attempt (ms), entry, error of that attempt or ''
local DEAD_LETTERS, OUTBOX = KEYS[1], KEYS[2]
local lowest, skip, limit = ARGV[1], ARGV[2], ARGV[3]
local MAX_BYTES = 1024 * 1024
local rows = redis.call('ZRANGEBYSCORE', DEAD_LETTERS, lowest, '+inf', 'WITHSCORES', 'LIMIT', skip, limit)
local reply, bytes = {}, 0
for i = 1, #rows, 2 do
    if bytes >= MAX_BYTES then break end
    local number, tried = rows[i], rows[i + 1]
    local entry, error = unpack(redis.call('HMGET', OUTBOX, number, 'e' .. number))
    if entry then
        bytes = bytes + #entry
        for _, piece in ipairs({number, tried, entry, error or ''}) do
            reply[#reply + 1] = piece
        end
    end
end
return reply
