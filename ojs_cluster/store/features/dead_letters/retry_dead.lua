-- Transition: discarded -> available, requested by an operator.
-- Pre:  the job is of the required kind. For a unique job, the caller has claimed the lock for the job with its
--       next number of manual retries.
-- Post: the job is at the end of its queue, with attempt 0 and without the errors and times of earlier
--       attempts, which the history keeps, shortened; replays + 1. A unique job is in `references`, so that the
--       janitor checks its lock (see store/engine/enqueue/references.py).
-- Memory: allow-oom; adds 400 bytes, and an entry of the history (1 KiB).
-- KEYS: 1 job, 2 finished, 3 dead, 4 expiring, 5 events, 6 references.
-- ARGV: 1 events kept, 2 required kind of job:
--         'dead'      a dead letter
--         'discarded' a dead letter, or a discarded job whose retention is not over
--       3 expected number of manual retries so far, '' for any, 4 history (see set_history).
-- Returns: {'ok', fields} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state}
--@include keys now preflight remove_one read_job change_counters append_event set_deadline
--@include make_available record_history
begin_events(ARGV[1])
set_history(ARGV[4])
local key, references_key, required_kind, expected_replays = KEYS[1], KEYS[6], ARGV[2], ARGV[3]
local job, reply = load_job(key)
if not job then return reply end
local id = job_id_of(key)
if job[F.hidden] then return {'missing'} end -- deleted, see delete_dead.lua
if expected_replays ~= '' and (job[F.replays] or '0') ~= expected_replays then
    return {'conflict', job[F.state]}
end
if not job[F.dead] then
    if required_kind == 'dead' or job[F.state] ~= 'discarded' then return {'conflict', job[F.state]} end
    -- After its retention, the janitor may have removed the job's alias already (see purge.lua).
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
count_job(job, 'discarded', -1)
record_history(key, job, 'retried', string.format(',"a":%s,"f":%s,"x":%s,"d":%s', job[F.attempt] or 0,
    job[F.finished] or 0, job[F.expired] and 1 or 0, job[F.dead] and 1 or 0))
local past_fields = {F.attempt, F.errors, F.dead, F.expired, F.finished, F.started, F.worker, F.lease,
    F.deadline, F.lease_ms, F.extended, F.delay, F.cancelled_keep_ms,
    F.progress, F.progress_data, F.suspect, F.deaths}
for name in pairs(job) do
    if string.match(name, '^' .. F.error_slot .. '%d+$') then past_fields[#past_fields + 1] = name end
end
-- Deaths of its workers that did not count have raised the maximum: see worker_death.lua.
local planned = string.match(job[F.deaths] or '', '^%d+ %d+ (%d+)$')
if planned then save_job(key, job, F.max_attempts, planned) end
drop_fields(key, job, unpack(past_fields))
-- An expiry in the past is removed. It would discard the job again at once.
if job[F.expires] and tonumber(job[F.expires]) <= now then drop_fields(key, job, F.expires) end
save_job(key, job, F.state, 'available', F.enqueued, now, F.replays, (job[F.replays] or 0) + 1)
make_available(id, job)
if job[F.unique] then redis.call('ZADD', references_key, now, id) end
emit('job.enqueued', id, job, 'f', 'discarded')
flush_counters()
return {'ok', job.field_list}
