-- The end of a job: its terminal state, and the day retention removes it.
-- ARGV positions of the retention times differ by script; callers pass ms.
local FIXED_KEEP_MS = 120000

-- When a job that has ended may be removed that is to be kept for so long from now. One whose id was
-- fixed in advance outlives, from its end on, every process that might still store it once more.
local function removal_time(job, keep_ms)
    if not (job[F.workflow] or job[F.fixed]) then return now + keep_ms end
    return math.max(now + keep_ms, (tonumber(job[F.finished]) or now) + FIXED_KEEP_MS)
end

local function finish(id, key, job, state, keep_ms, ...)
    count(job[F.queue], state, 1)
    redis.call('ZADD', FINISHED, removal_time(job, keep_ms), id)
    save_job(key, job, F.state, state, F.finished, now, ...)
    -- Here and nowhere else, so that every way to an end is followed up.
    if job[F.workflow] then
        append_effect('workflow', job[F.workflow] .. ' ' .. job[F.step] .. ' ' .. id .. ' ' .. state)
    end
    if job[F.unique] then
        append_effect('unlock', job[F.unique] .. ' ' .. id .. ' ' .. (job[F.replays] or '0'))
    end
end

-- The job's time ran out before it was started: discarded, without completed_at.
local function expire(id, key, job, keep_ms)
    finish(id, key, job, 'discarded', keep_ms, F.expired, 1)
    emit('job.expired', id, job, 'c', job[F.created], 'x', job[F.expires])
end

-- A job whose workflow was cancelled while a worker had it does not run again.
local function finish_cancel_requested(id, key, job)
    finish(id, key, job, 'cancelled', job[F.cancel_requested])
    emit('job.cancelled', id, job)
end

-- A job gives back the token that it has, or takes back its ask for one. `how`: 'u' it did not start,
-- 's' it did, with the ms until which its key is to be held, if any.
local function return_token(id, job, how)
    local number = string.match(job[F.token] or job[F.asked], '^%d+')
    append_effect('token_return', limit_of(job) .. ' ' .. how .. ' ' .. id .. '/' .. number)
    drop_fields(job_key(id), job, F.token, F.asked)
end

-- A job starts with the token it was granted.
local function use_token(id, job)
    remove_member(TOKEN_GRANTS, id)
    local number, timed = string.match(job[F.token], '^(%d+)(w?)')
    if timed == 'w' then append_effect('token_start', limit_of(job) .. ' ' .. id .. '/' .. number) end
end
