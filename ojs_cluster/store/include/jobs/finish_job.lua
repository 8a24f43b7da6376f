-- Ends a job: sets its terminal state, and the time at which retention removes it.
--@include removal_time effects_of_jobs

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
    -- Every transition to a terminal state calls this function, so none omits these effects; but ack.lua repeats the
    -- one for the lock.
    if job[F.workflow] then
        append_effect('workflow', job[F.workflow] .. ' ' .. job[F.step] .. ' ' .. id .. ' ' .. state)
    end
    if job[F.unique] then
        append_effect('unlock', unlock_payload(job[F.unique], id, job[F.replays]))
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
