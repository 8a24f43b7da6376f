-- Transition: active -> completed; the full path of ack.lua.
-- Post: as ack.lua; the effects for the job's workflow, lock and rate limit are in the outbox. If the holder
--       repeats the ack that completed the job, nothing changes and the reply has the job.
-- Memory: allow-oom; as ack, and 300 bytes per effect.
-- KEYS: 1 job, 2 active, 3 finished, 4 events.
-- ARGV: 1 events kept, 2 worker id or '', 3 lease id or '', 4 ms to keep completed jobs,
--       5 result JSON; absent for none.
-- Returns: {'ok', fields, effects} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state} | {'not_holder'}
--@include keys now preflight remove_one read_job change_counters append_event set_deadline
--@include append_effect finish_job remove_from_queue check_holder complete_job
begin_events(ARGV[1])
local key = KEYS[1]
local worker, lease, keep_ms, result = ARGV[2], ARGV[3], ARGV[4], ARGV[5] or ''
local job, reply = load_job(key)
if not job then return reply end
reply = early_ack_reply(job, worker, lease)
if not reply then
    preflight_ack(job)
    run_preflight()
    reply = complete(job_id_of(key), key, job, result, keep_ms)
    flush_counters()
end
reply[3] = effects
return reply
