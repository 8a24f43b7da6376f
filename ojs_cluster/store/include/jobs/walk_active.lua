-- Walks the active jobs of a shard in order of their deadlines, a bounded number per call.
--
-- An index of active jobs by worker or by fetch would make searches cheaper, but every fetch and ack slower.
-- Searches are rare. So a search walks all active jobs, and reads only the fields that it compares
-- (docs/adr/025). A cursor is the lower end of a ZRANGEBYSCORE over the deadlines: '' starts the walk, and the
-- cursor '' that is returned ends it.
-- MAX_TAKEN_JOBS, MAX_TAKEN_BYTES: maximum number and bytes of the jobs that one call returns.
local MAX_TAKEN_JOBS, MAX_TAKEN_BYTES = 50, 1024 * 1024

local function job_bytes(job)
    local bytes = 0
    for i = 2, #job.field_list, 2 do bytes = bytes + #job.field_list[i] end
    return bytes
end

-- `names`: fields to read of each job. `is_wanted`: function of the values of these fields, which returns true
-- for a job to return.
-- Returns a list of {id, job} with the wanted jobs, loaded, and the next cursor.
local function walk_active(cursor, limit, names, is_wanted)
    local from = cursor == '' and '-inf' or cursor
    local rows = redis.call('ZRANGEBYSCORE', ACTIVE, from, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
    local next_cursor = ''
    if #rows == 2 * limit then
        -- Further jobs may have the deadline of the page's last job. So the jobs with this deadline are left to
        -- the next page. If all jobs of the page have it, all jobs with this deadline are read at once.
        local last_deadline = rows[#rows]
        next_cursor = last_deadline
        while #rows > 0 and rows[#rows] == last_deadline do rows[#rows], rows[#rows - 1] = nil, nil end
        if #rows == 0 then
            rows = redis.call('ZRANGEBYSCORE', ACTIVE, last_deadline, last_deadline, 'WITHSCORES')
            next_cursor = '(' .. last_deadline
        end
    end
    local taken, bytes = {}, 0
    for i = 1, #rows, 2 do
        local key = job_key(rows[i])
        local found = redis.call('HMGET', key, unpack(names))
        if not found[1] then
            preflight_key(key)
        elseif is_wanted(found) then
            -- The caller ends the leases of the returned jobs. So the next page begins at this deadline, and
            -- does not return them again.
            if #taken == MAX_TAKEN_JOBS or bytes >= MAX_TAKEN_BYTES then return taken, rows[i + 1] end
            local job = load_job(key)
            -- The reaper handles a malformed job when its lease ends.
            if job and job[F.state] == 'active' and has_valid_fields(job) then
                bytes = bytes + job_bytes(job)
                taken[#taken + 1] = {id = rows[i], job = job}
            end
        end
    end
    return taken, next_cursor
end
