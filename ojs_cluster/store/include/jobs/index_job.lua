-- A job that has just been stored, or revealed, enters the indexes and counters of its state.
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

-- A job declares a limit of its queue: see gate.lua.
local function declare_limit(id, job)
    redis.call('HSET', queue_counters_key(job[F.queue]), 'max_per_second', job[F.mps], 'declared_at', now, 'declared_by', id)
end

-- A job with something in another shard, a lock or the alias of a client's id, is checked when that
-- could have been lost (see store/enqueue/references.py). `here`: this shard, of so many.
local function record_references(id, job, here, shards)
    local named = tonumber(string.sub(id, 16, 18), 16) % shards
    if job[F.unique] or named ~= here then redis.call('ZADD', REFERENCES, now, id) end
end
