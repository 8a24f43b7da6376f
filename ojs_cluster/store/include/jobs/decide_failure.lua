-- Returns the decision after a failure: 'retry', or, for the last attempt, 'discard' or 'dead_letter'.
-- `decided`: the handler's decision, which overrides the job's policy.
local function decide_failure(job, retryable, decided)
    if retryable and tonumber(job[F.attempt]) < tonumber(job[F.max_attempts]) then return 'retry' end
    return decided or job[F.on_exhaustion] or 'discard'
end

-- Decides a failure that the server itself detects: timeout, visibility_timeout or worker_lost. A retry
-- policy may name these like any other error.
local function decide_lost_lease(job, kind)
    return decide_failure(job, not is_non_retryable(job[F.non_retryable], {kind}, 1))
end
