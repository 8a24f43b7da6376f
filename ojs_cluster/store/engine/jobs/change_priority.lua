-- Gives a waiting job another priority.
-- Pre:  the job is pending, scheduled, available or retryable.
-- Post: an available job keeps its order of arrival among the jobs of its new priority. So does a blocked job
--       among the jobs of its rate limit key.
-- Memory: allow-oom; adds 100 bytes, and an entry of the history (1 KiB).
-- KEYS: 1 job.
-- ARGV: 1 priority, 2 history (see set_history).
-- Returns: {'ok', fields} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state}
--@include keys now preflight remove_one read_job change_counters append_effect finish_job remove_from_queue
--@include move_to_priority record_history
set_history(ARGV[2])
local key, priority = KEYS[1], tonumber(ARGV[1])
local job, reply = load_job(key)
if not job then return reply end
local state = job[F.state]
if is_terminal(state) or state == 'active' then return {'conflict', state} end
local zsets, limited = preflight_order(job)
run_preflight()
move_to_priority(job_id_of(key), job, priority, zsets, limited)
return {'ok', job.field_list}
