-- Ends a job: sets its terminal state, and the time at which retention removes it.
local FIXED_KEEP_MS = 120000

-- Returns when a finished job may be removed. A job whose id was fixed in advance is kept until no stalled
-- process can store it again.
local function removal_time(job, keep_ms)
    if not (job[F.workflow] or job[F.fixed]) then return now + keep_ms end
    return math.max(now + keep_ms, (tonumber(job[F.finished]) or now) + FIXED_KEEP_MS)
end

local function finish(id, key, job, state, keep_ms, ...)
    count(job[F.queue], state, 1)
    redis.call('ZADD', FINISHED, removal_time(job, keep_ms), id)
    save_job(key, job, F.state, state, F.finished, now, ...)
    -- Here alone, so that every transition to a terminal state has these effects.
    if job[F.workflow] then
        append_effect('workflow', job[F.workflow] .. ' ' .. job[F.step] .. ' ' .. id .. ' ' .. state)
    end
    if job[F.unique] then
        append_effect('unlock', job[F.unique] .. ' ' .. id .. ' ' .. (job[F.replays] or '0'))
    end
end

-- Discards a job that expired before it started; it has no completed_at.
local function expire(id, key, job, keep_ms)
    finish(id, key, job, 'discarded', keep_ms, F.expired, 1)
    emit('job.expired', id, job, 'c', job[F.created], 'x', job[F.expires])
end

-- Cancels a job with a cancel request instead of running it again.
local function finish_cancel_requested(id, key, job)
    finish(id, key, job, 'cancelled', job[F.cancel_requested])
    emit('job.cancelled', id, job)
end

-- Returns the job's token, or withdraws its token request. `how`: 'u' when the job
-- did not start, 's' when it did, followed by the time in ms until which no job of the key may start, if any.
local function return_token(id, job, how)
    local number = string.match(job[F.token] or job[F.requested_token], '^%d+')
    append_effect('token_return', limit_of(job) .. ' ' .. how .. ' ' .. id .. '/' .. number)
    drop_fields(job_key(id), job, F.token, F.requested_token)
end

-- Uses the token that was granted to a job which starts.
local function use_token(id, job)
    remove_member(TOKEN_GRANTS, id)
    local number, timed = string.match(job[F.token], '^(%d+)(w?)')
    if timed == 'w' then append_effect('token_start', limit_of(job) .. ' ' .. id .. '/' .. number) end
end
