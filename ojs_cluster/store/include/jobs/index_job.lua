-- Adds a new or published job to the index and the counters of its state. `due`: ms at which a scheduled job
-- becomes available.
local function index_job(id, job, state, due)
    if state == 'available' then
        make_available(id, job)
        emit('job.enqueued', id, job)
        return
    end
    count_job(job, state, 1)
    if job[F.expires] then set_deadline(EXPIRING, id, tonumber(job[F.expires])) end
    if state == 'pending' then
        redis.call('ZADD', PENDING, job[F.created], id)
    else
        set_deadline(DUE, id, due)
        emit('job.scheduled', id, job, 'n', due)
    end
end

-- Stores the max_per_second that the job declares for its queue (see queue_limits.lua).
local function declare_limit(id, job)
    redis.call('HSET', queue_counters_key(job[F.queue]), 'max_per_second', job[F.max_per_second],
        'declared_at', now, 'declared_by', id)
end

-- Plans a check of a job that has a unique lock, or an alias in another shard. A failover there may lose the
-- lock or the alias (see store/engine/enqueue/references.py). `this_shard`: index of this shard. `shards`: their
-- number.
local function record_references(id, job, this_shard, shards)
    -- Characters 16 to 18 of a UUIDv7 are the hex digits of `rand_a`, which names the owner shard.
    local owner_shard = tonumber(string.sub(id, 16, 18), 16) % shards
    if job[F.unique] or owner_shard ~= this_shard then redis.call('ZADD', REFERENCES, now, id) end
end
