-- Transition: none; active jobs that the worker holds get a later visibility deadline.
-- Pre:  per job: the job is active and not malformed. This worker holds it, or it was fetched without a worker
--       id. If a lease id is given, the job has this lease.
-- Post: the visibility deadline is now + the given visibility timeout. Without one, the timeout of the fetch
--       counts. Other jobs are unchanged, and not in the reply. The execution timeout is unchanged.
-- Memory: allow-oom; per job 100 bytes.
-- KEYS: 1 active, 2 events, then the job hashes.
-- ARGV: 1 events kept, 2 worker id, 3 visibility timeout (ms) or '', then per job: id, lease id or ''.
-- Returns: {now, ids of jobs whose leases were extended, per job with an alias in this shard: id, index of the
--          shard to which the alias points; ids of cancelled jobs}
--@include keys now read_job append_event set_deadline check_holder
begin_events(ARGV[1])
batch_events()
-- A lease of a fetch without a worker id has no owner. Any worker may extend it, and none becomes its owner:
-- if a stale worker became the owner, the worker that runs the job could not extend the lease any more.
local function may_extend(job, worker, lease)
    return is_holder(job, (job[F.worker] or '') == '' and '' or worker, lease)
end
local worker, visibility_timeout_ms = ARGV[2], ARGV[3]
local extended, moved, cancelled = {}, {}, {}
for i = 3, #KEYS do
    local id, lease = ARGV[2 * i - 2], ARGV[2 * i - 1]
    local job = {}
    local names = {F.state, F.worker, F.lease, F.lease_ms, F.type, F.queue, F.attempt, F.alias}
    for n, value in ipairs(redis.call('HMGET', KEYS[i], unpack(names))) do
        job[names[n]] = value
    end
    if job[F.alias] then
        moved[#moved + 1] = id
        moved[#moved + 1] = job[F.alias]
    elseif job[F.state] == 'active' and may_extend(job, worker, lease) and job[F.type] and job[F.queue]
        and is_number(job[F.attempt]) and is_number(job[F.lease_ms]) then
        local deadline = now + (visibility_timeout_ms ~= '' and visibility_timeout_ms or job[F.lease_ms])
        redis.call('HSET', KEYS[i], F.deadline, deadline, F.extended, now)
        set_deadline(ACTIVE, id, deadline)
        emit('job.heartbeat', id, job, 'a', job[F.attempt], 'w', worker, 'n', deadline)
        extended[#extended + 1] = id
    elseif job[F.state] == 'cancelled' then
        cancelled[#cancelled + 1] = id
    end
end
flush_events()
return {now, extended, moved, cancelled}
