-- Reads the entries of an index after a position, in ascending order of score and member, with the small fields
-- of their jobs. A position is the score and the member of an entry, not a rank. So the next page skips no
-- entry, even when entries before it have been removed.
-- Memory: no-writes.
-- KEYS: 1 the index, a sorted set of job ids.
-- ARGV: 1 score of the last entry, '' at the beginning, 2 the last entry, 3 maximum number of entries.
-- Returns: {score of the last entry of the page or '', then for each entry its id and the values of state,
--           queue, type, created, finished, priority, dead, hidden, replays, attempt, worker}
--@include keys fields
local index, score, member, limit = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local NAMES = {F.state, F.queue, F.type, F.created, F.finished, F.priority, F.dead, F.hidden, F.replays, F.attempt,
               F.worker}

-- Returns how many entries are at or before the position.
local function count_before()
    if score == '' then return 0 end
    local low = redis.call('ZCOUNT', index, '-inf', '(' .. score)
    local high = redis.call('ZCOUNT', index, '-inf', score)
    while low < high do -- the first entry of this score that comes after the member
        local middle = math.floor((low + high) / 2)
        if redis.call('ZRANGE', index, middle, middle)[1] <= member then low = middle + 1 else high = middle end
    end
    return low
end

local first = count_before()
local rows = redis.call('ZRANGE', index, first, first + limit - 1, 'WITHSCORES')
local reply = {rows[#rows] or ''}
for i = 1, #rows, 2 do
    local key = job_key(rows[i])
    local found = redis.call('HMGET', key, unpack(NAMES))
    -- A node whose slot moves refuses to read a key that has moved (see preflight.lua).
    if not found[1] then redis.call('EXISTS', index, key) end
    reply[#reply + 1] = rows[i]
    for n = 1, #NAMES do reply[#reply + 1] = found[n] or '' end
end
return reply
