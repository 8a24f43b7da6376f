-- Removes a job from its queue or its worker, and returns the job's token to its rate limit key.
--@include tenant_queue wake_queue leave_parked

-- Puts a rate limit key into the demand of a queue, with the score of the key's best blocked job that has not
-- requested a token. Keys without a pending request (`idle`) come first: UNREQUESTED_FIRST, 2^53, is above
-- every score of a job in a queue, so the scores of these keys are negative.
local UNREQUESTED_FIRST = 9007199254740992
local function update_token_demand(queue, key, idle)
    local best = redis.call('ZRANGE', token_unrequested_key(queue, key), 0, 0, 'WITHSCORES')
    if not best[2] then return end
    redis.call('ZADD', token_demand_key(queue), 'LT', best[2] - (idle and UNREQUESTED_FIRST or 0), key)
end

-- Removes an available job from its queue, whether or not it is blocked.
local function remove_from_queue(id, job)
    local queue, key = job[F.queue], job[F.limit] and limit_of(job)
    leave_tenant_queue(id, job)
    if job[F.parked] then leave_parked(id, job) end
    if not key or job[F.token] then
        remove_member(queue_available_key(queue), id)
        if job[F.parked] then remove_member(queue_blocked_key(queue), id) end
    elseif job[F.open_token_request] then
        remove_member(queue_blocked_key(queue), id)
        -- If the key's only request is that of this job, the key has no pending request after the removal.
        update_token_demand(queue, key, remaining_members(token_requested_key(queue, key)) == 1)
        remove_member(token_requested_key(queue, key), id)
        wake_queue(queue)
    else -- a fetch may have blocked the job or not, so it is in one of these sets
        remove_member(queue_available_key(queue), id)
        remove_member(queue_blocked_key(queue), id)
        remove_member(token_unrequested_key(queue, key), id)
    end
    if job[F.token] or job[F.open_token_request] then
        remove_member(TOKEN_GRANTS, id)
        return_token(id, job, 'u')
    end
end

-- Removes an active job from its worker. `hold_until`: ms before which no job of its rate limit key may start,
-- or nil. `unstarted`: whether the worker says that it has not started the job.
local function release_from_worker(id, job, hold_until, unstarted)
    remove_member(ACTIVE, id)
    if job[F.timeout] then remove_member(EXECUTION_DEADLINES, id) end
    count_job(job, 'active', -1)
    if job[F.alone] then drop_fields(job_key(id), job, F.alone) end
    if job[F.token] then return_token(id, job, (unstarted and 'r' or 's') .. (hold_until or '')) end
end
