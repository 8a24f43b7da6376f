-- Transitions: prepared -> available | scheduled | pending, for the job that replaces another; and, in
-- the same step, not terminal -> cancelled for that one, when it lives in this shard.
-- Pre:  the transaction has prepared the job, and nobody has revealed it.
-- Post: one of the two lives, as before: now it is the new one.
-- Repeated, it changes nothing.
-- Memory: allow-oom; adds 900 bytes.
-- KEYS: 1 the new job, 2..9 the shard's due, act, run, exp, pend, fin, ev, claims; 10 the old job,
--       when it lives here.
-- ARGV: 1 events kept, 2 transaction, 3 ms to keep cancelled jobs.
-- Returns: {fields of the new job, none when it is gone, effects}
--@include keys now preflight remove_many load_jobs change_counters append_event set_deadline
--@include append_effect make_available announce_queue finish_job remove_from_queue cancel_job index_job
local key, old_key = KEYS[1], KEYS[10]
local job = load_job(key, ARGV[2])
if not job or not job[F.transaction] then return {job and job.flat or {}, effects} end
local id = string.sub(key, #P + 3)
local old = old_key and load_small_fields(old_key)
if old and is_terminal(old[F.state]) then old = nil end
preflight_key(queue_counters_key(job[F.queue]))
preflight_key(queue_available_key(job[F.queue]))
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
if old then preflight_cancel(old) end
run_preflight()
if old then cancel(string.sub(old_key, #P + 3), old_key, old, ARGV[3]) end
drop_fields(key, job, F.transaction)
remove_member(ALIAS_CLAIMS, id)
local due = tonumber(job[F.due] or 0)
if job[F.state] == 'scheduled' and due <= now then
    save_job(key, job, F.state, 'available', F.enqueued, now)
end
announce_queue(job[F.queue], true)
index_job(id, job, job[F.state], due)
flush_removals()
flush_counters()
return {job.flat, effects}
