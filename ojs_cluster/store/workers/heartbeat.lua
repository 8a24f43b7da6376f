-- Transition: none; active jobs that the worker holds get a later visibility deadline.
-- Pre:  per job: active, held by this worker or fetched without a worker id, and held by this lease when one
--       is named; not malformed.
-- Post: deadline = now + the length asked for, else the lease's own length. Other jobs are unchanged, and
--       missing in the reply. The execution timeout does not move.
-- Memory: allow-oom; per job 100 bytes.
-- KEYS: 1 active, 2 events, then the job hashes.
-- ARGV: 1 events kept, 2 worker id, 3 lease length in ms or '', then per job: id, lease id or ''.
-- Returns: {now, ids extended, shards of ids that moved: id, shard, ...}
--@include keys now read_job append_event set_deadline check_holder
batch_events()
-- A lease that was fetched without a worker id has no owner. Any worker extends it and none becomes its owner:
-- the first heartbeat may be that of a stale worker, and it must not exclude the worker that runs the job.
local function may_extend(job, worker, lease)
    return is_holder(job, (job[F.worker] or '') == '' and '' or worker, lease)
end
local worker, asked_ms = ARGV[2], ARGV[3]
local extended, moved = {}, {}
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
        local deadline = now + (asked_ms ~= '' and asked_ms or job[F.lease_ms])
        redis.call('HSET', KEYS[i], F.deadline, deadline, F.extended, now)
        set_deadline(ACTIVE, id, deadline)
        emit('job.heartbeat', id, job, 'a', job[F.attempt], 'w', worker, 'n', deadline)
        extended[#extended + 1] = id
    end
end
flush_events()
return {now, extended, moved}
