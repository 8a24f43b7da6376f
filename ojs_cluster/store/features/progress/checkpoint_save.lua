-- Transition: none; stores a checkpoint of a job in place of the one before.
-- Pre:  the job is available, active or retryable. If the caller names a worker or a lease, the job is active,
--       and they hold it.
-- Post: the sequence is one more than that of the last checkpoint, 1 for the first. At most one event per
--       second and job.
-- Memory: deny-oom; adds the checkpoint (store/features/progress/checkpoints.py) and 500 bytes.
-- KEYS: 1 job, 2 events.
-- ARGV: 1 events kept, 2 worker id or '', 3 lease id or '', 4 state, 5 further members as JSON or ''.
-- Returns: {'ok', {sequence, now}} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state} | {'not_holder'} | {'malformed'}
--@include keys now preflight fields append_event check_holder
begin_events(ARGV[1])
local EVENT_EVERY_MS = 1000
local key, worker, lease, state, more = KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local names = {F.state, F.checkpoint, F.worker, F.lease, F.type, F.queue, F.attempt, F.alias, F.transaction,
    F.tenant}
local job = {}
for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do job[names[i]] = value or nil end
if job[F.alias] then return {'moved', job[F.alias]} end
if job[F.transaction] then return {'prepared', job[F.transaction]} end
if not job[F.state] then return {redis.call('EXISTS', key) == 1 and 'malformed' or 'missing'} end
if not (job[F.type] and job[F.queue]) then return {'malformed'} end
if job[F.state] == 'active' then
    if not is_holder(job, worker, lease) then return {'not_holder'} end
elseif worker ~= '' or lease ~= '' or job[F.state] ~= 'available' and job[F.state] ~= 'retryable' then
    return {'conflict', job[F.state]}
end
local id = job_id_of(key)
preflight_key(checkpoint_key(id))
run_preflight()

local sequence, _, event_at = string.match(job[F.checkpoint] or '', '^(%d+) (%d+) (%d+)$')
sequence, event_at = (tonumber(sequence) or 0) + 1, tonumber(event_at) or 0
if math.abs(now - event_at) >= EVENT_EVERY_MS then
    event_at = now
    emit('job.checkpointed', id, job, 'w', job[F.worker] or '', 'a', job[F.attempt] or 0, 'n', sequence)
end
redis.call('HSET', checkpoint_key(id), 'state', state, 'more', more, 'sequence', sequence, 'created', now)
redis.call('HSET', key, F.checkpoint, string.format('%.0f %.0f %.0f', sequence, #state + #more, event_at))
return {'ok', {sequence, now}}
