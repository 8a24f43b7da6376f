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
local function leave_queue(id, job)
    local queue, key = job[F.queue], job[F.limit] and limit_of(job)
    if not key or job[F.token] then take_out(queue_available_key(queue), id)
    elseif job[F.asked] then
        take_out(queue_blocked_key(queue), id)
        may_ask(queue, key, staying(token_requested_key(queue, key)) == 1)
        take_out(token_requested_key(queue, key), id)
        redis.call('SPUBLISH', WAKE_CHANNEL, queue)
    else -- perhaps no fetch has met it yet
        take_out(queue_available_key(queue), id)
        take_out(queue_blocked_key(queue), id)
        take_out(token_unrequested_key(queue, key), id)
    end
    if job[F.token] or job[F.asked] then
        take_out(TOKEN_GRANTS, id)
        give_back(id, job, 'u')
    end
end

-- An active job leaves its worker. `hold`: ms until which its rate limit's key is to be held.
local function leave_worker(id, job, hold)
    take_out(ACTIVE, id)
    if job[F.timeout] then take_out(EXECUTION_DEADLINES, id) end
    count(job[F.queue], 'active', -1)
    if job[F.token] then give_back(id, job, 's' .. (hold or '')) end
end
