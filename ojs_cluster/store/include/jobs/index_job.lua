-- Adds a stored or published job to the indexes and counters of its state.
local function index_job(id, job, state, due)
    if state == 'available' then
        make_available(id, job)
        emit('job.enqueued', id, job)
        return
    end
    count(job[F.queue], state, 1)
    if job[F.expires] then set_deadline(EXPIRING, id, tonumber(job[F.expires])) end
    if state == 'pending' then
        redis.call('ZADD', PENDING, now, id)
    else
        set_deadline(DUE, id, due)
        emit('job.scheduled', id, job, 'n', due)
    end
end

-- Declares the job's limit for its queue: see queue_limits.lua.
local function declare_limit(id, job)
    redis.call('HSET', queue_counters_key(job[F.queue]), 'max_per_second', job[F.max_per_second],
        'declared_at', now, 'declared_by', id)
end

-- Plans the check of a job with a lock or an alias in another shard, which a failover may lose (see
-- store/enqueue/references.py). `this_shard`: index of this shard, of `shards`.
local function record_references(id, job, this_shard, shards)
    local id_shard = tonumber(string.sub(id, 16, 18), 16) % shards
    if job[F.unique] or id_shard ~= this_shard then redis.call('ZADD', REFERENCES, now, id) end
end
