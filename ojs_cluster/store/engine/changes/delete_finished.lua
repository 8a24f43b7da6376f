-- Transition: terminal -> terminal job whose retention is over, requested by an operator.
-- Pre:  the job is terminal, and as ARGV says.
-- Post: the job is no dead letter, and the caller or the janitor may remove it. A job whose id stays reserved
--       for a while (see removal_time.lua) is hidden from readers until then.
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 job, 2 finished, 3 dead.
-- ARGV: 1 state that the job must have, '' for any terminal state, 2 expected number of manual retries so far,
--       '' for any, 3 when the job was created (Unix time in ms), '' for any time. Another job that has its id
--       is 'missing'.
-- Returns: {'ok', fields} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state}
--@include keys now preflight remove_one read_job finish_job remove_from_queue
local key = KEYS[1]
local job, reply = load_job(key)
if not job then return reply end
local id = job_id_of(key)
if job[F.hidden] or ARGV[3] ~= '' and job[F.created] ~= ARGV[3] then return {'missing'} end
local wanted_state, expected_replays = ARGV[1], ARGV[2]
if not is_terminal(job[F.state]) or wanted_state ~= '' and job[F.state] ~= wanted_state
    or expected_replays ~= '' and (job[F.replays] or '0') ~= expected_replays then
    return {'conflict', job[F.state]}
end
if job[F.dead] then preflight_key(queue_dead_key(job[F.queue])) end
run_preflight()
if job[F.dead] then
    remove_member(DEAD, id)
    remove_member(queue_dead_key(job[F.queue]), id)
    drop_fields(key, job, F.dead)
end
local removal_at = removal_time(job, 0)
redis.call('ZADD', FINISHED, removal_at, id)
if removal_at > now then save_job(key, job, F.hidden, 1) end
return {'ok', job.field_list}
