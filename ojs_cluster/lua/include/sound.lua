-- What the scripts over many jobs take for granted of each. Nothing here writes another job; should
-- there be one all the same, a script must not stop at it: it would do so again and again, and with it
-- all else of the shard. So it is met before the first write, passed over, and put aside by the loops
-- of the scheduler, which report it. Of a job that was read in part only that part is looked at.
local ASIDE_MS = 3600 * 1000

local function is_number(value)
    return not value or tonumber(value) and string.find(value, '^-?%d')
end

local function is_sound(job)
    if not (job[F.state] and job[F.queue] and job[F.type]) then return false end
    if not job.flat then return is_number(job[F.priority]) and is_number(job[F.expires]) end
    if not (job[F.created] and job[F.max_attempts]) then return false end
    if job[F.state] == 'active' and not (job[F.attempt] and job[F.started]) then return false end
    if job[F.workflow] and not job[F.step] then return false end
    for _, name in ipairs({F.priority, F.created, F.enqueued, F.started, F.expires, F.timeout,
        F.attempt, F.max_attempts, F.errors, F.spared}) do
        if not is_number(job[name]) then return false end
    end
    return true
end

local function put_aside(zset, id) redis.call('ZADD', zset, now + ASIDE_MS, id) end
