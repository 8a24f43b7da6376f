-- Transition: dead letter -> terminal job whose retention is over.
-- Pre:  the job is a dead letter.
-- Post: the job is in no list of dead letters, and the caller or the janitor may remove it. If its id must stay
--       reserved for some time (see removal_time in removal_time.lua), the job is kept for that time, but hidden
--       from reads.
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 job, 2 finished, 3 dead.
-- Returns: {'ok', fields} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state}
--@include keys now preflight remove_one read_job finish_job remove_from_queue
local key = KEYS[1]
local job, reply = load_job(key)
if not job then return reply end
local id = job_id_of(key)
if not job[F.dead] then return {'conflict', job[F.state]} end
preflight_key(queue_dead_key(job[F.queue]))
run_preflight()
remove_member(DEAD, id)
remove_member(queue_dead_key(job[F.queue]), id)
local removal_at = removal_time(job, 0)
redis.call('ZADD', FINISHED, removal_at, id)
drop_fields(key, job, F.dead)
if removal_at > now then save_job(key, job, F.hidden, 1) end
return {'ok', job.field_list}
