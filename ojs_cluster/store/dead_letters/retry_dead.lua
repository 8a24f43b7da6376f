-- Transition: discarded -> available, requested by an operator.
-- Pre:  the job is a dead letter. With 'discarded' any discarded job whose retention is not over will do. The
--       lock of a unique job is claimed for the retry with this number.
-- Post: attempt 0, without errors and times of earlier runs, replays + 1, at the end of its queue. A unique
--       job is listed, so that the janitor checks its lock (see store/enqueue/references.py).
-- Memory: allow-oom; adds 400 bytes.
-- KEYS: 1 job, 2 finished, 3 dead, 4 expiring, 5 events, 6 references.
-- ARGV: 1 events kept, 2 'dead' | 'discarded' (what the job must be), 3 expected replays, '' for any.
-- Returns: {'ok', fields} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state}
--@include keys now preflight remove_one read_job change_counters append_event set_deadline
--@include make_available
local key, references_key, must_be, expected_replays = KEYS[1], KEYS[6], ARGV[2], ARGV[3]
local job, reply = load_job(key)
if not job then return reply end
local id = job_id_of(key)
if job[F.hidden] then return {'missing'} end -- deleted, see delete_dead.lua
if expected_replays ~= '' and (job[F.replays] or '0') ~= expected_replays then
    return {'conflict', job[F.state]}
end
if not job[F.dead] then
    if must_be == 'dead' or job[F.state] ~= 'discarded' then return {'conflict', job[F.state]} end
    -- The janitor may have removed its alias already (see purge.lua).
    local due = redis.call('ZSCORE', FINISHED, id)
    if due and tonumber(due) <= now then return {'missing'} end
else
    preflight_key(queue_dead_key(job[F.queue]))
end
preflight_key(queue_counters_key(job[F.queue]))
preflight_key(queue_available_key(job[F.queue]))
run_preflight()
if job[F.dead] then
    remove_member(DEAD, id)
    remove_member(queue_dead_key(job[F.queue]), id)
end
remove_member(FINISHED, id)
count(job[F.queue], 'discarded', -1)
local past = {F.attempt, F.errors, F.dead, F.expired, F.finished, F.started, F.worker, F.lease,
    F.deadline, F.lease_ms, F.extended, F.delay, F.cancelled_keep_ms,
    F.progress, F.progress_data}
for name in pairs(job) do
    if string.match(name, '^' .. F.error_slot .. '%d+$') then past[#past + 1] = name end
end
drop_fields(key, job, unpack(past))
-- A past expiry would discard the job again at once, but the operator wants it to run.
if job[F.expires] and tonumber(job[F.expires]) <= now then drop_fields(key, job, F.expires) end
save_job(key, job, F.state, 'available', F.enqueued, now, F.replays, (job[F.replays] or 0) + 1)
make_available(id, job)
if job[F.unique] then redis.call('ZADD', references_key, now, id) end
emit('job.enqueued', id, job, 'f', 'discarded')
flush_counters()
return {'ok', job.field_list}
