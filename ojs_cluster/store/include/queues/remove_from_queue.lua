-- How a job leaves its queue or its worker, and what that means to those that wait for the same key.

-- A fetch may ask for the best of the jobs that wait for a key's tokens, first of all for those of a key
-- that has no ask under way (`idle`). Every place in a queue is below 2^53.
local UNASKED_FIRST = 9007199254740992
local function may_ask(queue, key, idle)
    local best = redis.call('ZRANGE', token_unrequested_key(queue, key), 0, 0, 'WITHSCORES')
    if not best[2] then return end
    redis.call('ZADD', token_demand_key(queue), 'LT', best[2] - (idle and UNASKED_FIRST or 0), key)
end

-- An available job leaves its queue, wherever in it it waits.
local function remove_from_queue(id, job)
    local queue, key = job[F.queue], job[F.limit] and limit_of(job)
    if not key or job[F.token] then remove_member(queue_available_key(queue), id)
    elseif job[F.asked] then
        remove_member(queue_blocked_key(queue), id)
        may_ask(queue, key, remaining_members(token_requested_key(queue, key)) == 1)
        remove_member(token_requested_key(queue, key), id)
        redis.call('SPUBLISH', WAKE_CHANNEL, queue)
    else -- perhaps no fetch has met it yet
        remove_member(queue_available_key(queue), id)
        remove_member(queue_blocked_key(queue), id)
        remove_member(token_unrequested_key(queue, key), id)
    end
    if job[F.token] or job[F.asked] then
        remove_member(TOKEN_GRANTS, id)
        return_token(id, job, 'u')
    end
end

-- An active job leaves its worker. `hold`: ms until which its rate limit's key is to be held.
local function release_from_worker(id, job, hold)
    remove_member(ACTIVE, id)
    if job[F.timeout] then remove_member(EXECUTION_DEADLINES, id) end
    count(job[F.queue], 'active', -1)
    if job[F.token] then return_token(id, job, 's' .. (hold or '')) end
end
