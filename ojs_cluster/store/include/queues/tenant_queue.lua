-- The available jobs of a tenant in a queue, with the scores of the queue. A job that may start is in its queue,
-- and also in this index when it has a tenant. A fetch for one tenant reads only the index. A process of an
-- earlier version does not know the index, so a fetch checks that each of its jobs is in the queue.

-- Gives a tenant its turn in a queue with a fair share, unless it has one (see tenant_turns.lua). A tenant that
-- comes gets the lowest turn of all, so it cannot save up turns while it has no jobs.
local function join_turns(queue, tenant)
    local turns = tenant_turns_key(queue)
    local first = redis.call('ZRANGE', turns, 0, 0, 'WITHSCORES')
    redis.call('ZADD', turns, 'NX', first[2] or 0, tenant)
end

local has_turn = {} -- queue -> whether it has a fair share; 'queue tenant' -> true when the tenant has a turn
local function index_for_tenant(id, job, score)
    local queue, tenant = job[F.queue], job[F.tenant]
    local key = tenant_queue_key(queue, tenant)
    redis.call('ZADD', key, score, id)
    if redis.call('ZCARD', key) == 1 then
        -- Wakes a worker that waits for jobs of this tenant only.
        redis.call('SPUBLISH', WAKE_CHANNEL, queue .. ' ' .. tenant)
    end
    -- Every job may join its tenant, because the first may come from a process of an earlier version.
    if has_turn[queue] == nil then has_turn[queue] = redis.call('HEXISTS', queue_counters_key(queue), 'fair') == 1 end
    local name = queue .. ' ' .. tenant
    if has_turn[queue] and not has_turn[name] then
        has_turn[name] = true
        join_turns(queue, tenant)
    end
end

-- Removes a job from the index of its tenant, before it leaves its queue or is blocked. The tenant keeps its turn:
-- the next fetch that comes to it removes it.
local function unindex_for_tenant(id, job)
    if job[F.tenant] and not job[F.parked] then remove_member(tenant_queue_key(job[F.queue], job[F.tenant]), id) end
end

-- Removes a job that is not available any more.
local function leave_tenant_queue(id, job)
    if not job[F.tenant] then return end
    unindex_for_tenant(id, job)
    count_for_tenant(job, 'available', -1)
end
