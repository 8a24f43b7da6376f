-- The server's decision about the last failure of a job whose policy does not decide. The script sets it.
local server_exhaustion = 'discard'
local queue_exhaustion = {}

-- Returns the decision of an operator for the queue (see set_on_exhaustion.lua), or else the server's.
local function default_exhaustion(queue)
    if not queue_exhaustion[queue] then
        queue_exhaustion[queue] = redis.call('HGET', queue_counters_key(queue), 'on_exhaustion')
            or server_exhaustion
    end
    return queue_exhaustion[queue]
end

-- Returns the decision after a failure: 'retry', or, for the last attempt, 'discard' or 'dead_letter'.
-- `decided`: the handler's decision, which overrides the job's policy.
local function decide_failure(job, retryable, decided)
    if retryable and tonumber(job[F.attempt]) < tonumber(job[F.max_attempts]) then return 'retry' end
    return decided or job[F.on_exhaustion] or default_exhaustion(job[F.queue])
end

-- Decides a failure that the server itself detects: timeout, visibility_timeout or worker_lost. A retry
-- policy may name these like any other error.
local function decide_lost_lease(job, kind)
    return decide_failure(job, not is_non_retryable(job[F.non_retryable], {kind}, 1))
end
