-- Transition: prepared -> available | scheduled | pending, for a job that replaces another job. In the same
-- step (not terminal) -> cancelled for the replaced job, when it lives in this shard.
-- Pre:  the transaction has prepared the job, and no process has published it.
-- Post: exactly one of the two jobs is live: the new one.
-- Repeated, it changes nothing.
-- Memory: allow-oom; adds 900 bytes, and an entry of the history (1 KiB).
-- KEYS: 1 job hash of the new job, 2 due, 3 active, 4 execution_deadlines, 5 expiring, 6 pending,
--       7 finished, 8 events, 9 alias_claims, 10 job hash of the replaced job when it lives in this shard.
-- ARGV: 1 events kept, 2 transaction id, 3 retention of cancelled jobs (ms), 4 history of the replaced job
--       (see set_history).
-- Returns: {fields of the new job (empty when it was removed), effects}
--@include keys now preflight remove_many load_jobs change_counters append_event set_deadline
--@include append_effect make_available announce_queue finish_job remove_from_queue cancel_job index_job
begin_events(ARGV[1])
local key, old_key, transaction, retention = KEYS[1], KEYS[10], ARGV[2], ARGV[3]
set_history(ARGV[4])
local job = load_job(key, transaction) -- without the transaction id a prepared job cannot be loaded
if not job or not job[F.transaction] then return {job and job.field_list or {}, effects} end
local id = job_id_of(key)
local old = old_key and load_small_fields(old_key)
if old and is_terminal(old[F.state]) then old = nil end
preflight_key(queue_counters_key(job[F.queue]))
preflight_key(queue_available_key(job[F.queue]))
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
if old then preflight_cancel(old) end
run_preflight()
if old then cancel(job_id_of(old_key), old_key, old, retention) end
drop_fields(key, job, F.transaction) -- from now on the job is not prepared any more
remove_member(ALIAS_CLAIMS, id)
local due = tonumber(job[F.due] or 0)
if job[F.state] == 'scheduled' and due <= now then
    save_job(key, job, F.state, 'available', F.enqueued, now)
end
announce_queue(job[F.queue], true)
index_job(id, job, job[F.state], due)
flush_removals()
flush_counters()
return {job.field_list, effects}
