-- Walks the active jobs of a shard in order of their deadlines, a bounded number per call.
--
-- An index of active jobs by worker or by fetch would make searches cheaper, but every fetch and ack slower.
-- Searches are rare, so they walk, and read only the fields that they compare (docs/adr/025). A cursor is
-- the lower end of a ZRANGEBYSCORE over the deadlines: '' at the beginning and at the end.
local TAKEN_MOST, TAKEN_BYTES_MOST = 50, 1024 * 1024

local function job_bytes(job)
    local bytes = 0
    for i = 2, #job.flat, 2 do bytes = bytes + #job.flat[i] end
    return bytes
end

-- `names`: fields to read of each job; `takes`: function of their values, true for a job to return.
-- Returns these jobs, loaded, with their ids, and the next cursor.
local function walk_active(cursor, limit, names, takes)
    local from = cursor == '' and '-inf' or cursor
    local page = redis.call('ZRANGEBYSCORE', ACTIVE, from, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
    local last, rows, following = page[#page], page, ''
    if #page == 2 * limit then
        -- Jobs with the last deadline may continue beyond the page: they belong to the next page, or are
        -- read here when the page holds no other.
        following = last
        while #rows > 0 and rows[#rows] == last do rows[#rows], rows[#rows - 1] = nil, nil end
        if #rows == 0 then
            rows = redis.call('ZRANGEBYSCORE', ACTIVE, last, last, 'WITHSCORES')
            following = '(' .. last
        end
    end
    local taken, bytes = {}, 0
    for i = 1, #rows, 2 do
        local key = job_key(rows[i])
        local found = redis.call('HMGET', key, unpack(names))
        if not found[1] then
            preflight_key(key)
        elseif takes(found) then
            -- The returned jobs leave the set, so the walk continues from this deadline.
            if #taken == TAKEN_MOST or bytes >= TAKEN_BYTES_MOST then return taken, rows[i + 1] end
            local job = load_job(key)
            -- The reaper handles a malformed job when its lease ends.
            if job and job[F.state] == 'active' and has_valid_fields(job) then
                bytes = bytes + job_bytes(job)
                taken[#taken + 1] = {id = rows[i], job = job}
            end
        end
    end
    return taken, following
end
