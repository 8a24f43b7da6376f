-- Transition: available -> pending when the agent of a job is paused, pending -> available when it is resumed.
--             Other changes of the record of the agent, and of jobs in other states, change no state.
-- Pre:  the job is not terminal, and the record is the one that the caller expects, or already the wanted one.
-- Post: the record is the wanted one. A job that waits or runs while its agent is paused is marked: the fetch
--       that would take it makes it pending.
-- Memory: deny-oom; adds the record (core/agents/record.py) and 300 bytes.
-- KEYS: 1 job, 2 expiring, 3 pending, 4 events.
-- ARGV: 1 events kept, 2 expected record ('' none), 3 wanted record, 4 'pause', 'resume' or ''.
-- Returns: {'ok', fields, effects} | {'changed'} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state}
--@include keys now preflight remove_one read_job change_counters append_event set_deadline append_effect
--@include finish_job remove_from_queue make_available hold_job
begin_events(ARGV[1])
local key, expected, wanted, action = KEYS[1], ARGV[2], ARGV[3], ARGV[4]
local job, reply = load_job(key)
if not job then return reply end
local id, queue = job_id_of(key), job[F.queue]
if is_terminal(job[F.state]) then return {'conflict', job[F.state]} end
if job[F.agent] == wanted then return {'ok', job.field_list, {}} end
if (job[F.agent] or '') ~= expected then return {'changed'} end
if action ~= '' then
    preflight_key(queue_counters_key(queue))
    preflight_key(queue_available_key(queue))
end
run_preflight()
save_job(key, job, F.agent, wanted)
if action == 'pause' then
    if job[F.state] == 'available' then hold_job(id, key, job) else save_job(key, job, F.hold, 'w') end
elseif action == 'resume' and job[F.hold] then
    if job[F.hold] == 'h' and job[F.state] == 'pending' then
        count_job(job, 'pending', -1)
        remove_member(PENDING, id)
        save_job(key, job, F.state, 'available', F.enqueued, now)
        make_available(id, job)
        emit('job.enqueued', id, job, 'f', 'pending')
    end
    drop_fields(key, job, F.hold)
end
flush_counters()
return {'ok', job.field_list, effects}
