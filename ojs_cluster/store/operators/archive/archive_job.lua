-- Read one job with its position and its removal time, for an export.
-- Memory: no-writes.
-- KEYS: 1 job.
-- Returns: {names and values of the fields, score among the available jobs or '', removal time (ms) or ''}
--          | {} when the key holds no job | {'prepared', transaction id} when the job is not published
--          | {'malformed'}
--@include keys preflight read_job
local key = KEYS[1]
local field_list = redis.call('HGETALL', key)
local job = {}
for i = 1, #field_list, 2 do job[field_list[i]] = field_list[i + 1] end
if #field_list == 0 or job[F.alias] then return {} end
if job[F.transaction] then return {'prepared', job[F.transaction]} end
if not has_valid_fields(job) or not is_state(job[F.state]) then return {'malformed'} end
local id = job_id_of(key)

if job[F.state] == 'available' then
    local available, blocked = queue_available_key(job[F.queue]), queue_blocked_key(job[F.queue])
    preflight_key(available)
    preflight_key(blocked)
    run_preflight()
    return {field_list, redis.call('ZSCORE', available, id) or redis.call('ZSCORE', blocked, id) or '', ''}
end
if job[F.finished] then
    preflight_key(FINISHED)
    run_preflight()
    return {field_list, '', redis.call('ZSCORE', FINISHED, id) or ''}
end
return {field_list, '', ''}
