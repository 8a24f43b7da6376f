-- Transition: available -> active, for up to `count` jobs of some queues of one shard.
-- Pre:  the worker is not quiet; a queue is not paused.
-- Post: each job returned has a new lease: worker, attempt + 1, deadline, lease id. What was due
--       in the shard has been promoted first; expired jobs met on the way are discarded. Fewer
--       jobs than there are when they are large: the reply ends with the job that fills it.
-- KEYS: 1..6 the shard's due, act, run, exp, fin, ev; 7 quiet; then per queue c: and q:.
-- ARGV: 1 events kept, 2 count, 3 worker id ('' anonymous), 4 lease id prefix,
--       5 visibility timeout ms asked for ('' the job's own), 6 default visibility timeout ms,
--       7 ms to keep discarded jobs, then the queue names in order.
-- Returns: {now, per job: id, fields} | {now, 'quiet'}
--@include keys now job event deadline available finish promote
local wanted, worker = tonumber(ARGV[2]), ARGV[3]
local reply = {now}
if worker ~= '' then
    local until_ = redis.call('ZSCORE', KEYS[7], worker)
    if until_ and tonumber(until_) > now then return {now, 'quiet'} end
end
promote_due(16, ARGV[7])

-- A reply that the client refuses for its size would leave leases that nobody knows of. With
-- the default limits a job has at most 1.7 MB, so this stays far below the client's 64 MiB.
local MOST_BYTES = 8 * 1024 * 1024
local given, budget, bytes = 0, wanted + 256, 0
local function activate(id, key, job)
    given = given + 1
    local lease_ms = ARGV[5]
    if lease_ms == '' then lease_ms = job[F.visibility] or ARGV[6] end
    local deadline = now + lease_ms
    local attempt = (job[F.attempt] or 0) + 1
    save_job(key, job, F.state, 'active', F.attempt, attempt, F.worker, worker,
        F.lease, ARGV[4] .. given, F.lease_ms, lease_ms,
        F.deadline, deadline, F.started, now)
    set_deadline(ACTIVE, id, deadline)
    if job[F.timeout] then set_deadline(RUNNING, id, now + job[F.timeout]) end
    if job[F.expires] then redis.call('ZREM', EXPIRING, id) end
    count(job[F.queue], 'active', 1)
    emit('job.started', id, job, 'a', attempt, 'w', worker)
    reply[#reply + 1] = id
    reply[#reply + 1] = job.flat
    if job[F.errors] then
        for _, value in ipairs(job.flat) do bytes = bytes + #value end
    else
        bytes = bytes + #job[F.envelope]
    end
end

for q = 8, #ARGV do
    local at = 8 + 2 * (q - 8)
    local queue, zset = KEYS[at], KEYS[at + 1]
    if redis.call('HEXISTS', queue, 'paused') == 0 then
        -- One by one: what was popped together could not be put back in its place.
        while given < wanted and budget > 0 and bytes < MOST_BYTES do
            local id = redis.call('ZPOPMIN', zset)[1]
            if not id then break end
            budget = budget - 1
            local key = job_key(id)
            local job = load_job(key)
            if job then
                if job[F.expires] and tonumber(job[F.expires]) <= now then
                    redis.call('ZREM', EXPIRING, id)
                    expire(id, key, job, ARGV[7])
                else
                    activate(id, key, job)
                end
            end
        end
    end
    if given >= wanted or bytes >= MOST_BYTES then break end
end
return reply
