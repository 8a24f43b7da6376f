-- One job as a backup needs it, read in one step: nothing is changed.
-- Memory: no-writes.
-- KEYS: 1 job hash.
-- Returns: {fields, score among the available jobs or '', ms of its removal or ''}
--          {} when there is no job here; {'prepared', transaction} before it is revealed; {'malformed'}
--@include keys preflight read_job
local key = KEYS[1]
local flat = redis.call('HGETALL', key)
local job = {}
for i = 1, #flat, 2 do job[flat[i]] = flat[i + 1] end
if #flat == 0 or job[F.alias] then return {} end
if job[F.transaction] then return {'prepared', job[F.transaction]} end
if not has_valid_fields(job) or not is_state(job[F.state]) then return {'malformed'} end
local id = string.sub(key, #P + 3)
local zset = job[F.state] == 'available' and queue_available_key(job[F.queue]) or FINISHED
local ended = job[F.finished] and zset == FINISHED
if zset ~= FINISHED or ended then
    preflight_key(zset)
    if zset ~= FINISHED then preflight_key(queue_blocked_key(job[F.queue])) end
    run_preflight()
    local score = redis.call('ZSCORE', zset, id)
        or zset ~= FINISHED and redis.call('ZSCORE', queue_blocked_key(job[F.queue]), id) or ''
    return {flat, ended and '' or score, ended and score or ''}
end
return {flat, '', ''}
