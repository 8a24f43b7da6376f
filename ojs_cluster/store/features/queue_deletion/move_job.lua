-- Gives a waiting job another queue. The job stays in its shard, with its id, its state and its times.
-- Pre:  the job is pending, scheduled, available or retryable, and belongs to the one queue or the other. Workers
--       search this shard for jobs of the other queue. If the job belongs to a workflow, the workflow names the
--       other queue already (workflow_add_queue.lua): it may be accessible only to who may access that queue.
-- Post: the job belongs to the other queue. An available job is there behind all others of its priority. If it
--       had a token of its rate limit key, the token is returned. A repetition changes nothing.
-- Memory: allow-oom; adds 1 KiB, and an entry of the history (1 KiB).
-- KEYS: 1 job.
-- ARGV: 1 queue, 2 the other queue, 3 when the job was created (Unix time in ms), 4 history (see set_history),
--       5 the workflow that names the other queue, '' for none.
-- Returns: {'ok', fields, effects} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state} | {'draining', the other queue, which takes no new jobs}
--          {'of_workflow', the workflow of the job, which is not that of ARGV}
--@include keys now preflight remove_one read_job change_counters set_deadline append_effect finish_job
--@include remove_from_queue make_available announce_queue record_history created_of
local key, from, to = KEYS[1], ARGV[1], ARGV[2]
set_history(ARGV[4])
local job, reply = load_job(key)
if not job then return reply end
if created_of(job) ~= tonumber(ARGV[3]) then return {'missing'} end
local id, state = job_id_of(key), job[F.state]
if job[F.queue] == to then return {'ok', job.field_list, effects} end
if is_terminal(state) or state == 'active' or job[F.queue] ~= from then return {'conflict', state} end
if job[F.workflow] and job[F.workflow] ~= ARGV[5] then return {'of_workflow', job[F.workflow]} end
for _, queue in ipairs({from, to}) do
    preflight_key(queue_counters_key(queue))
    preflight_key(queue_available_key(queue))
end
if job[F.expires] then preflight_key(EXPIRING) end
if job[F.tenant] then
    preflight_key(tenant_queue_key(to, job[F.tenant]))
    preflight_key(tenant_turns_key(to))
end
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HGET', queue_counters_key(to), 'draining') then return {'draining', to} end

if state == 'available' then remove_from_queue(id, job) else count_job(job, state, -1) end
record_history(key, job, 'moved', string.format(',"qf":"%s","qt":"%s"', from, to))
save_job(key, job, F.queue, to)
announce_queue(to, true)
if state == 'available' then make_available(id, job) else count_job(job, state, 1) end
flush_counters()
return {'ok', job.field_list, effects}
