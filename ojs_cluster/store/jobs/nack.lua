-- Transition: active -> retryable | discarded | available (requeue, release) | cancelled (spared).
-- Pre:  as ack. A holder's lease id repeating the nack it already made changes nothing.
-- Post: failed: the error is recorded, then backoff, discard or dead letter.
--       requeue: available at the end of its priority, attempt kept, no failure recorded.
--       release (a fetch whose client vanished): as requeue, but the attempt never happened and
--       the job goes back to the front.
-- Memory: allow-oom; adds the error (64 KiB; a job keeps OJS_ERRORS_KEPT of them) and 1.5 KiB.
-- KEYS: 1 job, 2..8 the shard's due, act, run, exp, fin, dead, ev.
-- ARGV: 1 events kept, 2 errors kept, 3 ms to keep discarded, 4 ms to keep dead letters, 5 dead
--       letters kept per queue, 6 the nack (see include/jobs/nack_job.lua) as msgpack.
-- Returns: as ack.
--@include keys now preflight remove_one read_job change_counters append_event set_deadline
--@include append_effect make_available finish_job remove_from_queue backoff_delay match_error
--@include decide_failure cap_dead_letters fail_attempt check_holder nack_job
local key = KEYS[1]
local job, reply = load_job(key)
if not job then return reply end
local nack, limits = cmsgpack.unpack(ARGV[6]), {ARGV[3], ARGV[4], tonumber(ARGV[5])}
reply = early_nack_reply(job, nack)
if not reply then
    preflight_nacks({{job, nack}}, limits[3])
    reply = end_attempt(string.sub(key, #P + 3), key, job, nack, tonumber(ARGV[2]), limits)
    flush_counters()
end
reply[3] = effects
return reply
