-- Transition: active -> completed; as ack.lua, whatever else is to be done or answered.
-- Post: as ack.lua; what its workflow, its lock or its limit are owed is in the outbox.
--       The holder repeating the ack that completed the job changes nothing and gets the job.
-- Memory: allow-oom; as ack; and an effect of 300 bytes.
-- KEYS: 1 job, 2..5 the shard's act, run, fin, ev.
-- ARGV: 1 events kept, 2 worker id or '', 3 lease id or '', 4 result JSON or '',
--       5 ms to keep completed jobs.
-- Returns: {'ok', fields, effects} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state} | {'not_holder'}
--@include keys now preflight remove_one read_job change_counters append_event set_deadline
--@include append_effect finish_job remove_from_queue check_holder complete_job
local key = KEYS[1]
local job, reply = load_job(key)
if not job then return reply end
reply = early_ack_reply(job, ARGV[2], ARGV[3])
if not reply then
    preflight_ack(job)
    run_preflight()
    reply = complete(string.sub(key, #P + 3), key, job, ARGV[4], ARGV[5])
    flush_counters()
end
reply[3] = effects
return reply
