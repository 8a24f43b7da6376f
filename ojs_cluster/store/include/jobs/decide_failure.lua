-- What a failure leads to: 'retry', or, when it is the job's last, 'discard' or 'dead_letter', as the
-- handler has decided or else the job's policy says.
local function decide_failure(job, retryable, decided)
    if retryable and tonumber(job[F.attempt]) < tonumber(job[F.max_attempts]) then return 'retry' end
    return decided or job[F.on_exhaustion] or 'discard'
end

-- The same of a failure that the server itself finds. A policy may name it like any other:
-- timeout, visibility_timeout, worker_lost.
local function decide_lost_lease(job, kind)
    return decide_failure(job, not is_non_retryable(job[F.non_retryable], {kind}, 1))
end
