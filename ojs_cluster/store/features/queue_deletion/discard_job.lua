-- Transition: scheduled | available | pending | active | retryable -> discarded, because its queue is deleted.
-- Pre:  the job is not terminal, and belongs to the queue.
-- Post: the job is in no queue and has no deadline, and an error says why. Effects: its workflow, its unique lock,
--       and its limit by key. It is no dead letter.
-- Memory: allow-oom; adds 1 KiB, and an error of the job.
-- KEYS: 1 job, 2 due, 3 active, 4 execution_deadlines, 5 expiring, 6 pending, 7 finished, 8 events.
-- ARGV: 1 events kept, 2 queue, 3 when the job was created (Unix time in ms), 4 ms to keep discarded jobs,
--       5 number of errors that a job keeps.
-- Returns: {'ok', fields, effects} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state}
--@include keys now preflight remove_one read_job change_counters append_event set_deadline
--@include append_effect finish_job remove_from_queue cancel_job created_of
begin_events(ARGV[1])
local key, keep_ms, errors_kept = KEYS[1], ARGV[4], tonumber(ARGV[5])
local job, reply = load_job(key)
if not job then return reply end
if created_of(job) ~= tonumber(ARGV[3]) then return {'missing'} end
local id, state = job_id_of(key), job[F.state]
if is_terminal(state) or job[F.queue] ~= ARGV[2] then return {'conflict', state} end
preflight_cancel(job)
run_preflight()
-- store/features/events/content.py and store/engine/jobs/record.py add the closing brace.
local ERROR = '{"code":"queue_deleted","type":"queue_deleted","message":"the queue was deleted"'
local attempt, earlier = job[F.attempt] or 0, tonumber(job[F.errors] or 0)
leave_index(id, job)
finish(id, key, job, 'discarded', keep_ms, F.errors, earlier + 1, F.error_slot .. (earlier % errors_kept),
    string.format('%s,%.0f,%s', attempt, now, ERROR))
emit('job.discarded', id, job, 'f', state, 'a', attempt, 'e', ERROR)
flush_counters()
return {'ok', job.field_list, effects}
