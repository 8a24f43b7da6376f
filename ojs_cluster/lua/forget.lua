-- Transition: terminal -> gone, for one job.
-- Pre:  its retention is over.
-- Post: no key of the job remains in the shard.
-- KEYS: 1 job, 2..4 the shard's fin, dead, exp.
-- Returns: {'ok'} | {'missing'} | {'moved', shard} | {'staged', deal} | {'conflict', state}
--@include keys now look once job counts forget
local key = KEYS[1]
local id = string.sub(key, #P + 3)
local job, reply = load_job(key)
if not job then
    if reply[1] == 'missing' then redis.call('ZREM', FINISHED, id) end
    return reply
end
local due = redis.call('ZSCORE', FINISHED, id)
if not due or tonumber(due) > now then return {'conflict', job[F.state]} end
want_to_forget(job)
look()
forget(id, key, job)
settle_counts()
return {'ok'}
