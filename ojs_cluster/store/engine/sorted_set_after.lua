-- Reads the entries of a sorted set that follow a position; changes nothing. Redis itself can start at a score or at a
-- name, but not at a name among the entries of one score.
-- Memory: no-writes.
-- KEYS: 1 the sorted set.
-- ARGV: 1 score and 2 name of the position, where no entry needs to be, 3 '1' for descending order, 4 maximum number
--       of entries.
-- Returns: {number of all entries, name and score of each entry that follows}
local set, score, name, descending = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1'
local command = descending and 'ZREVRANGE' or 'ZRANGE'

-- Redis orders names by their bytes. The operator < of Lua orders them by the locale of the server.
local function is_less(a, b)
    for i = 1, math.min(#a, #b) do
        if a:byte(i) ~= b:byte(i) then return a:byte(i) < b:byte(i) end
    end
    return #a < #b
end

local function follows(rank)
    local entry = redis.call(command, set, rank, rank, 'WITHSCORES')
    local entry_score = tonumber(entry[2])
    if entry_score ~= score then return (entry_score < score) == descending end
    return entry[1] ~= name and is_less(entry[1], name) == descending
end

local size = redis.call('ZCARD', set)
local first, last = 0, size -- the rank of the first entry that follows is between them
while first < last do
    local middle = math.floor((first + last) / 2)
    if follows(middle) then last = middle else first = middle + 1 end
end
local reply = redis.call(command, set, first, first + ARGV[4] - 1, 'WITHSCORES')
table.insert(reply, 1, size)
return reply
