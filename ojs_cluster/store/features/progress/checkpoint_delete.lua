-- Transition: none; deletes the checkpoint of a job in any state.
-- Post: the job has no checkpoint, and its next one has the sequence 1.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 job.
-- Returns: {'ok'} | {'missing'} | {'moved', shard} | {'prepared', transaction} | {'malformed'}
--@include keys preflight fields
local key = KEYS[1]
local alias, transaction, state, checkpoint =
    unpack(redis.call('HMGET', key, F.alias, F.transaction, F.state, F.checkpoint))
if alias then return {'moved', alias} end
if transaction then return {'prepared', transaction} end
if not state then return {redis.call('EXISTS', key) == 1 and 'malformed' or 'missing'} end
if checkpoint then
    local stored = checkpoint_key(job_id_of(key))
    preflight_key(stored)
    run_preflight()
    redis.call('UNLINK', stored)
    redis.call('HDEL', key, F.checkpoint)
end
return {'ok'}
