-- Transition: scheduled | available | pending | active | retryable -> cancelled.
-- Pre:  the job is not terminal.
-- Post: the job is in no queue and has no deadline. It keeps attempt and started_at.
-- Memory: allow-oom; adds 600 bytes, and an entry of the history (1 KiB).
-- KEYS: 1 job, 2 due, 3 active, 4 execution_deadlines, 5 expiring, 6 pending, 7 finished, 8 events.
-- ARGV: 1 events kept, 2 ms to keep cancelled jobs, 3 which jobs may be cancelled:
--         ''          a job in any state that is not terminal
--         'available' an available job; any other state is a conflict
--         'waiting'   a job that is not active; an active job is a conflict
--         'inactive'  a job that is not active. An active job is a conflict, but gets a cancel request: it
--                     may finish this attempt, and is cancelled instead of running again.
--       4 when the job was created (Unix time in ms), '' for any time. Another job that has its id is 'missing'.
--       5 history (see set_history).
-- Returns: {'ok', fields, effects} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state}
--@include keys now preflight remove_one read_job change_counters append_event set_deadline
--@include append_effect finish_job remove_from_queue cancel_job
begin_events(ARGV[1])
local key, keep_ms, only = KEYS[1], ARGV[2], ARGV[3]
set_history(ARGV[5])
local job, reply = load_job(key)
if not job then return reply end
if ARGV[4] ~= '' and job[F.created] ~= ARGV[4] then return {'missing'} end
local id = job_id_of(key)
local state = job[F.state]
if is_terminal(state) or only == 'available' and state ~= 'available' then
    return {'conflict', state}
end
if state == 'active' and (only == 'inactive' or only == 'waiting') then
    if only == 'inactive' then redis.call('HSET', key, F.cancelled_keep_ms, keep_ms) end
    return {'conflict', state}
end
preflight_cancel(job)
run_preflight()
cancel(id, key, job, keep_ms)
flush_counters()
return {'ok', job.field_list, effects}
