-- Transition: discarded -> available, by hand.
-- Pre:  the job is a dead letter; or it is only discarded, that will do, and its retention is not over.
--       A unique job has its lock, claimed for the retry that comes after so many.
-- Post: attempt 0, errors and times of the past runs gone, replay counted, at the end of its queue.
--       A unique job is listed, so that the janitor checks its lock (see store/enqueue/references.py).
-- Memory: allow-oom; adds 400 bytes.
-- KEYS: 1 job, 2..6 the shard's fin, dead, exp, ev, refs.
-- ARGV: 1 events kept, 2 'dead' when it must be a dead letter, 'discarded' when it need not be,
--       3 how often it has been retried, '' when that does not matter.
-- Returns: {'ok', fields} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state}
--@include keys now preflight remove_one read_job change_counters append_event set_deadline
--@include make_available
local key = KEYS[1]
local job, reply = load_job(key)
if not job then return reply end
local id = string.sub(key, #P + 3)
if job[F.hidden] then return {'missing'} end -- deleted, see delete_dead.lua
if ARGV[3] ~= '' and (job[F.replays] or '0') ~= ARGV[3] then return {'conflict', job[F.state]} end
if not job[F.dead] then
    if ARGV[2] == 'dead' or job[F.state] ~= 'discarded' then return {'conflict', job[F.state]} end
    -- The janitor may have taken its alias away already (see purge.lua).
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
    F.deadline, F.lease_ms, F.extended, F.delay, F.cancel_requested}
for name in pairs(job) do
    if string.match(name, '^' .. F.error_slot .. '%d+$') then past[#past + 1] = name end
end
drop_fields(key, job, unpack(past))
-- An expiry that has passed would discard it again at once: whoever retries by hand wants it run.
if job[F.expires] and tonumber(job[F.expires]) <= now then drop_fields(key, job, F.expires) end
save_job(key, job, F.state, 'available', F.enqueued, now, F.replays, (job[F.replays] or 0) + 1)
make_available(id, job)
if job[F.unique] then redis.call('ZADD', KEYS[6], now, id) end
emit('job.enqueued', id, job)
flush_counters()
return {'ok', job.flat}
