-- Transition: pending -> available, or pending -> scheduled for a job whose scheduled time is in the future.
-- Pre:  the job is pending.
-- Post: the job is in its queue, or in the index of due jobs.
-- Memory: allow-oom; adds 300 bytes.
-- KEYS: 1 job, 2 due, 3 expiring, 4 pending, 5 events.
-- ARGV: 1 events kept.
-- Returns: {'ok', fields} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state} | {'held'} the agent of the job is paused
--@include keys now preflight remove_one read_job change_counters append_event set_deadline
--@include make_available
begin_events(ARGV[1])
local key = KEYS[1]
local job, reply = load_job(key)
if not job then return reply end
local id = job_id_of(key)
if job[F.state] ~= 'pending' then return {'conflict', job[F.state]} end
if job[F.hold] == 'h' then return {'held'} end
local due = tonumber(job[F.due] or 0)
preflight_key(queue_counters_key(job[F.queue]))
if due <= now then preflight_key(queue_available_key(job[F.queue])) end
run_preflight()
count_job(job, 'pending', -1)
remove_member(PENDING, id)
if due > now then
    count_job(job, 'scheduled', 1)
    save_job(key, job, F.state, 'scheduled')
    set_deadline(DUE, id, due)
    emit('job.scheduled', id, job, 'f', 'pending', 'n', job[F.due])
else
    save_job(key, job, F.state, 'available', F.enqueued, now)
    make_available(id, job)
    emit('job.enqueued', id, job, 'f', 'pending')
end
flush_counters()
return {'ok', job.field_list}
