-- Transitions: staged -> available | scheduled | pending, for the job that replaces another; and, in
-- the same step, not terminal -> cancelled for that one, when it lives in this shard.
-- Pre:  the deal has staged the job, and nobody has revealed it.
-- Post: one of the two lives, as before: now it is the new one.
-- Repeated, it changes nothing.
-- Memory: allow-oom; adds 900 bytes.
-- KEYS: 1 the new job, 2..9 the shard's due, act, run, exp, pend, fin, ev, claims; 10 the old job,
--       when it lives here.
-- ARGV: 1 events kept, 2 deal, 3 ms to keep cancelled jobs.
-- Returns: {fields of the new job, none when it is gone, effects}
--@include keys now preflight remove_many load_jobs change_counters append_event set_deadline
--@include append_effect make_available join_queue finish_job leave_queue cancel_job store_job
local key, old_key = KEYS[1], KEYS[10]
local job = load_job(key, ARGV[2])
if not job or not job[F.deal] then return {job and job.flat or {}, effects} end
local id = string.sub(key, #P + 3)
local old = old_key and load_lean(old_key)
if old and is_over(old[F.state]) then old = nil end
want(queue_counters_key(job[F.queue]))
want(queue_available_key(job[F.queue]))
want(OUTBOX)
want(OUTBOX_DUE)
if old then want_to_cancel(old) end
look()
if old then cancel(string.sub(old_key, #P + 3), old_key, old, ARGV[3]) end
drop_fields(key, job, F.deal)
take_out(ALIAS_CLAIMS, id)
local due = tonumber(job[F.due] or 0)
if job[F.state] == 'scheduled' and due <= now then
    save_job(key, job, F.state, 'available', F.enqueued, now)
end
enlist(job[F.queue], true)
enter(id, job, job[F.state], due)
settle()
settle_counts()
return {job.flat, effects}
