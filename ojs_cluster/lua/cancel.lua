-- Transition: scheduled | available | pending | active | retryable -> cancelled.
-- Pre:  the job is not terminal.
-- Post: in no queue and under no deadline; attempt and started_at kept; no completed_at.
-- KEYS: 1 job, 2..8 the shard's due, act, run, exp, pend, fin, ev.
-- ARGV: 1 events kept, 2 ms to keep cancelled jobs.
-- Returns: {'ok', fields} | {'missing'} | {'moved', shard} | {'conflict', state}
--@include keys now look once job event finish
local key = KEYS[1]
local job, reply = load_job(key)
if not job then return reply end
local id = string.sub(key, #P + 3)
local state = job[F.state]
if state == 'completed' or state == 'cancelled' or state == 'discarded' then
    return {'conflict', state}
end
want(queue_key(job[F.queue]))
if state == 'available' then want(available_key(job[F.queue])) end
look()
if state == 'active' then
    leave_worker(id, job)
elseif state == 'available' then
    take_out(available_key(job[F.queue]), id)
else
    count(job[F.queue], state, -1)
    take_out(state == 'pending' and PENDING or DUE, id)
end
if job[F.expires] then take_out(EXPIRING, id) end
finish(id, key, job, 'cancelled', ARGV[2])
emit('job.cancelled', id, job)
return {'ok', job.flat}
