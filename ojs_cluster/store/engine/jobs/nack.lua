-- Transition: active -> retryable | discarded | available (requeue, release) | cancelled (after a
--             cancel request).
-- Pre:  the job is active, and the caller holds its lease or names no holder. A nack that repeats an accepted
--       nack of the same lease changes nothing.
-- Post: fail: the error is recorded, then the job is retried later, discarded or dead-lettered. If the error
--       is a snooze, it is not recorded: the job is retryable, and the attempt does not count.
--       requeue: the job is available behind the others of its priority and keeps its attempt count. No
--       failure is recorded.
--       release (the client of the fetch has disconnected, or its worker has not started the job): the job is
--       available at the front of its queue, and the attempt does not count.
-- Memory: allow-oom; adds the error (64 KiB; a job keeps OJS_ERRORS_KEPT of them), an entry of the history (1 KiB;
--       a job keeps 16 KiB of them) and 1.5 KiB.
-- KEYS: 1 job, 2 due, 3 active, 4 execution_deadlines, 5 expiring, 6 finished, 7 dead, 8 events.
-- ARGV: 1 events kept, 2 errors kept, 3 ms to keep discarded, 4 ms to keep dead letters, 5 dead
--       letters kept per queue, 6 the server's on_exhaustion, 7 entries of history kept, 8 the nack (see
--       include/jobs/nack_job.lua) as msgpack.
-- Returns: {'ok', fields, effects} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state} | {'not_holder'}
--@include keys now preflight remove_one read_job change_counters append_event set_deadline
--@include append_effect make_available finish_job remove_from_queue backoff_delay match_error
--@include decide_failure cap_dead_letters error_groups fail_attempt check_holder nack_job
begin_events(ARGV[1])
local key = KEYS[1]
local job, reply = load_job(key)
if not job then return reply end
local errors_kept, retention = tonumber(ARGV[2]), {ARGV[3], ARGV[4], tonumber(ARGV[5])}
local nack = cmsgpack.unpack(ARGV[8])
set_server_exhaustion(ARGV[6])
set_history(ARGV[7])
reply = early_nack_reply(job, nack)
if not reply then
    preflight_nacks({{job, nack}}, retention[3])
    reply = end_attempt(job_id_of(key), key, job, nack, errors_kept, retention)
    flush_counters()
    flush_unstarted()
    flush_error_groups()
end
reply[3] = effects
return reply
