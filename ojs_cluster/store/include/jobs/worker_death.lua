-- Decides what becomes of a job whose worker has died while it held the lease. One job of a worker may have killed it,
-- and the others are innocent: each is a suspect, and runs again, alone (suspects.lua). It is one no more when its next
-- worker ends the attempt (nack_job.lua).
-- F.deaths: '<deaths that did not count> <deaths while the job ran alone> <maximum number of attempts before>'. A
-- death that does not count raises the maximum number of attempts, so the number of an attempt is never used again.
--@include match_error decide_failure read_job
local MAX_UNCOUNTED = 2
-- The isolations of the dead workers: worker, time, worker, ... The caller of the script ends them in all shards
-- (store/engine/jobs/isolation_flags.py).
local lost_isolations = {}

-- Returns the decision (see decide_failure.lua) and the message of the error. Keeps in job.death what record_death
-- writes. `held`: how many jobs of the worker the script has found. `max_lone`: number of deaths while the job ran
-- alone after which it does not run again.
local function decide_death(job, held, max_lone)
    local uncounted, lone, planned = string.match(job[F.deaths] or '', '^(%d+) (%d+) (%d+)$')
    local max_attempts = tonumber(job[F.max_attempts])
    uncounted, lone, planned = tonumber(uncounted) or 0, tonumber(lone) or 0, tonumber(planned) or max_attempts
    local decision, message = decide_lost_lease(job, 'worker_lost'), 'the worker died while it held this job'
    if job[F.alone] then
        lost_isolations[#lost_isolations + 1] = job[F.worker]
        lost_isolations[#lost_isolations + 1] = job[F.alone]
    end
    if held <= 1 and (tonumber(job[F.alone] or '') or 0) > now then
        lone, message = lone + 1, 'the worker died while it ran this job alone'
        if lone > 1 then message = message .. ', ' .. lone .. ' times' end
        if lone >= max_lone and not job[F.cancelled_keep_ms] then decision = job[F.on_exhaustion] or 'dead_letter' end
    else
        if held > 1 then
            message = 'the worker died while it held ' .. held .. ' jobs, and this was one of them'
        end
        -- A job with a single attempt, or whose policy refuses another one, must not run twice.
        if uncounted < MAX_UNCOUNTED and planned > 1 and not job[F.cancelled_keep_ms]
            and not is_non_retryable(job[F.non_retryable], {'worker_lost'}, 1) then
            uncounted, max_attempts, decision = uncounted + 1, max_attempts + 1, 'retry'
        end
    end
    job.death = {string.format('%.0f %.0f %.0f', uncounted, lone, planned), max_attempts}
    return decision, message
end

-- Writes what decide_death has decided about the number of attempts.
local function record_death(key, job)
    save_job(key, job, F.suspect, 1, F.deaths, job.death[1], F.max_attempts, job.death[2])
end
