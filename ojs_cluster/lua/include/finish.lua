-- The end of a job: its terminal state, and the day retention removes it.
-- ARGV positions of the retention times differ by script; callers pass ms.
-- A job whose id was fixed in advance outlives every process that might still store it once more.
local FIXED_KEEP_MS = 120000
local function finish(id, key, job, state, keep_ms, ...)
    local queue = job[F.queue]
    if job[F.workflow] or job[F.fixed] then keep_ms = math.max(tonumber(keep_ms), FIXED_KEEP_MS) end
    count(queue, state, 1)
    redis.call('ZADD', FINISHED, now + keep_ms, id)
    save_job(key, job, F.state, state, F.finished, now, ...)
    -- Here and nowhere else, so that every way to an end is followed up.
    if job[F.workflow] then
        owe('workflow', job[F.workflow] .. ' ' .. job[F.step] .. ' ' .. id .. ' ' .. state)
    end
    if job[F.unique] then owe('unlock', job[F.unique] .. ' ' .. id) end
end

-- The job's time ran out before it was started: discarded, without completed_at.
local function expire(id, key, job, keep_ms)
    finish(id, key, job, 'discarded', keep_ms, F.expired, 1)
    emit('job.expired', id, job, 'c', job[F.created], 'x', job[F.expires])
end

-- A job whose workflow was cancelled while a worker had it does not run again.
local function end_spared(id, key, job)
    finish(id, key, job, 'cancelled', job[F.spared])
    emit('job.cancelled', id, job)
end

-- An active job leaves its worker.
local function leave_worker(id, job)
    take_out(ACTIVE, id)
    if job[F.timeout] then take_out(RUNNING, id) end
    local active = count(job[F.queue], 'active', -1)
    -- Where all that may be active were, there is room now (see gate.lua).
    local limits = redis.call('HGET', queue_key(job[F.queue]), 'limits')
    if limits and tostring(active + 1) == string.match(limits, '^[^,]+') then
        redis.call('SPUBLISH', WAKE, job[F.queue])
    end
    if job[F.tokens] then owe('tokens', job[F.tokens] .. ' ' .. job[F.lease]) end
end
