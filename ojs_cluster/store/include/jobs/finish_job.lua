-- Ends a job: sets its terminal state, and the time at which retention removes it.
local FIXED_KEEP_MS = 120000 -- longest time for which a stalled process may still store a job

-- Returns the ms at which a finished job may be removed. A process that was stalled may try to store a job
-- again whose id was fixed in advance (by a workflow or a cron job). So such a job is kept for FIXED_KEEP_MS at
-- least.
local function removal_time(job, keep_ms)
    if not (job[F.workflow] or job[F.fixed_id]) then return now + keep_ms end
    return math.max(now + keep_ms, (tonumber(job[F.finished]) or now) + FIXED_KEEP_MS)
end

-- Where the final state of a job has its part of F.keep, the retention by the defaults of the job's queue.
local KEEP = {completed = '^(%d+)', discarded = '^%d*:(%d+)', cancelled = '^%d*:%d*:(%d+)'}

-- Ends a job that has left its index. `...`: names and values of further fields.
local function finish(id, key, job, state, keep_ms, ...)
    -- A purge keeps the job for 0 ms, and dead letters have a retention of their own.
    if job[F.keep] and tonumber(keep_ms) > 0 and ... ~= F.dead then
        keep_ms = string.match(job[F.keep], KEEP[state]) or keep_ms
    end
    count_job(job, state, 1)
    if state ~= 'completed' then count_job(job, state .. '_total', 1) end
    redis.call('ZADD', FINISHED, removal_time(job, keep_ms), id)
    save_job(key, job, F.state, state, F.finished, now, ...)
    -- Every transition to a terminal state calls this function, so none omits these effects.
    if job[F.workflow] then
        append_effect('workflow', job[F.workflow] .. ' ' .. job[F.step] .. ' ' .. id .. ' ' .. state)
    end
    if job[F.unique] then
        append_effect('unlock', job[F.unique] .. ' ' .. id .. ' ' .. (job[F.replays] or '0'))
    end
end

-- Discards a job that expired before it started. Its envelope has no completed_at.
local function expire(id, key, job, keep_ms)
    count_job(job, 'expired_total', 1)
    local before = job[F.state]
    finish(id, key, job, 'discarded', keep_ms, F.expired, 1)
    emit('job.expired', id, job, 'f', before, 'c', job[F.created], 'x', job[F.expires])
end

-- Cancels a job that has a cancel request, instead of running it again.
local function finish_cancel_requested(id, key, job)
    finish(id, key, job, 'cancelled', job[F.cancelled_keep_ms])
    emit('job.cancelled', id, job, 'f', 'active')
end

-- Returns the job's token to the shard of its key, or cancels the job's token request. `outcome`: 'u' when the
-- job was not fetched (unused), 'r' when it was fetched and did not start (released), 's' when it started. A time
-- in ms may follow 'r' and 's': the worker wants no job of the key to start before that time.
local function return_token(id, job, outcome)
    local number = string.match(job[F.token] or job[F.open_token_request], '^%d+')
    append_effect('token_return', limit_of(job) .. ' ' .. outcome .. ' ' .. id .. '/' .. number)
    drop_fields(job_key(id), job, F.token, F.open_token_request)
end

-- Uses the token of a job that starts. The shard of the key counts the start only where the token ends in 'w'.
local function use_token(id, job)
    remove_member(TOKEN_GRANTS, id)
    local number, counted = string.match(job[F.token], '^(%d+)(w?)')
    if counted == 'w' then append_effect('token_start', limit_of(job) .. ' ' .. id .. '/' .. number) end
end
