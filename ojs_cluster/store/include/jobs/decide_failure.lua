-- The server's decision about a job without a further attempt, 'discard' or 'dead_letter'. The job's policy and
-- an operator's decision for the queue override it.
local server_exhaustion = 'discard'
local queue_exhaustion = {} -- queue -> the decision that holds for its jobs

-- Sets the server's decision, for a script that knows OJS_ON_EXHAUSTION.
local function set_server_exhaustion(decision) server_exhaustion = decision end

-- Returns an operator's decision for the queue (see set_on_exhaustion.lua), or the server's when there is none.
local function default_exhaustion(queue)
    if not queue_exhaustion[queue] then
        queue_exhaustion[queue] = redis.call('HGET', queue_counters_key(queue), 'on_exhaustion')
            or server_exhaustion
    end
    return queue_exhaustion[queue]
end

-- Returns the decision after a failed attempt: 'retry', or, when there is no further attempt, 'discard' or
-- 'dead_letter'. `retryable`: whether the error allows a retry. `handler_decision`: 'discard' or 'dead_letter'
-- when the job's handler has chosen, which overrides the job's policy.
local function decide_failure(job, retryable, handler_decision)
    if retryable and tonumber(job[F.attempt]) < tonumber(job[F.max_attempts]) then return 'retry' end
    return handler_decision or job[F.on_exhaustion] or default_exhaustion(job[F.queue])
end

-- Decides a failure that the server itself detects. `error_type`: 'timeout', 'visibility_timeout' or
-- 'worker_lost'. A retry policy may name these types as non-retryable, like any other error.
local function decide_lost_lease(job, error_type)
    return decide_failure(job, not is_non_retryable(job[F.non_retryable], {error_type}, 1))
end
