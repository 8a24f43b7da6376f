-- Deletes the history that a job has recorded.
-- Post: the job has no entries. Its other fields are unchanged.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 job.
-- Returns: {'ok', fields before} | {'missing'} | {'moved', shard} | {'prepared', transaction} | {'malformed'}
--@include keys now preflight read_job
local job, reply = load_job(KEYS[1])
if not job then return reply end
redis.call('HDEL', KEYS[1], F.history)
return {'ok', job.field_list}
