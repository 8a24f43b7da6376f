-- Transition: scheduled | available | pending | active | retryable -> cancelled.
-- Pre:  the job is not terminal; it is available when only such a one is to be cancelled.
-- Post: in no queue and under no deadline; attempt and started_at kept; no completed_at.
-- Memory: allow-oom; adds 600 bytes.
-- KEYS: 1 job, 2..8 the shard's due, act, run, exp, pend, fin, ev.
-- ARGV: 1 events kept, 2 ms to keep cancelled jobs, 3 'inactive' when an active job is left to its
--       worker: it may finish this attempt, and is cancelled before it could have another;
--       'available' when any other state is a conflict; '' when none is.
-- Returns: {'ok', fields, effects} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state}
--@include keys now preflight remove_one read_job change_counters append_event set_deadline
--@include append_effect finish_job remove_from_queue cancel_job
local key = KEYS[1]
local job, reply = load_job(key)
if not job then return reply end
local id = string.sub(key, #P + 3)
local state = job[F.state]
if is_terminal(state) or ARGV[3] == 'available' and state ~= 'available' then
    return {'conflict', state}
end
if state == 'active' and ARGV[3] == 'inactive' then
    redis.call('HSET', key, F.cancel_requested, ARGV[2])
    return {'conflict', state}
end
preflight_cancel(job)
run_preflight()
cancel(id, key, job, ARGV[2])
flush_counters()
return {'ok', job.flat, effects}
