-- The available jobs of a tenant in a queue, with the scores of the queue. A job that may start is in its queue,
-- and also in this index when it has a tenant. A fetch for one tenant reads only the index. A process of an
-- earlier version does not know the index, so a fetch checks that each of its jobs is in the queue.
local function index_for_tenant(id, job, score)
    local key = tenant_queue_key(job[F.queue], job[F.tenant])
    redis.call('ZADD', key, score, id)
    -- Wakes a worker that waits for jobs of this tenant only.
    if redis.call('ZCARD', key) == 1 then
        redis.call('SPUBLISH', WAKE_CHANNEL, job[F.queue] .. ' ' .. job[F.tenant])
    end
end

-- Removes a job from the index of its tenant, before it leaves its queue or is blocked.
local function unindex_for_tenant(id, job)
    if job[F.tenant] then remove_member(tenant_queue_key(job[F.queue], job[F.tenant]), id) end
end

-- Removes a job that is not available any more.
local function leave_tenant_queue(id, job)
    if not job[F.tenant] then return end
    unindex_for_tenant(id, job)
    count_for_tenant(job, 'available', -1)
end
