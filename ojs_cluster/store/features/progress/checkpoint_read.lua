-- Read the checkpoint of a job.
-- Memory: no-writes.
-- KEYS: 1 job.
-- Returns: {'ok', {state, further members, sequence, time of its save (ms)}} | {'ok', {}} | {'missing'}
--          {'moved', shard} | {'prepared', transaction} | {'malformed'}
--@include keys fields
local key = KEYS[1]
local alias, transaction, state, checkpoint, hidden =
    unpack(redis.call('HMGET', key, F.alias, F.transaction, F.state, F.checkpoint, F.hidden))
if alias then return {'moved', alias} end
if transaction then return {'prepared', transaction} end
if hidden then return {'missing'} end
if not state then return {redis.call('EXISTS', key) == 1 and 'malformed' or 'missing'} end
if not checkpoint then return {'ok', {}} end
local stored = checkpoint_key(job_id_of(key))
local found = redis.call('HMGET', stored, 'state', 'more', 'sequence', 'created')
-- While its slot moves, a key that is not here may be on the other node (see preflight.lua).
if not found[1] then redis.call('EXISTS', key, stored) end
return {'ok', found[1] and {found[1], found[2] or '', found[3] or '0', found[4] or '0'} or {}}
