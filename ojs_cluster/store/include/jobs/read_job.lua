-- Reads and writes the hash of a job.
--@include fields validate_job parked_keys

-- Returns the rate limit key of a job.
local function limit_of(job) return (string.match(job[F.limit], '^%S*')) end

-- Reads the Redis keys that a transition may touch because the job has a rate limit key.
local function preflight_limit(job)
    local queue, key = job[F.queue] or '', limit_of(job)
    for _, name in ipairs({queue_blocked_key(queue), token_demand_key(queue), token_unrequested_key(queue, key),
        token_requested_key(queue, key), TOKEN_GRANTS}) do preflight_key(name) end
end

-- Checks a job whose fields were read. `job`: the fields as a table. `field_list`: the same as HGETALL returns
-- them, false when there are none. `transaction`: the transaction whose prepared job the caller accepts, if
-- any. Returns the job, with the list in job.field_list, or nil and the reply of the script:
--   {'missing'}                there is no job
--   {'moved', shard}           the id is an alias, and the job is stored in that shard
--   {'prepared', transaction}  a transaction has prepared the job and not published it yet
--   {'malformed'}              see validate_job.lua
-- The fields prove that the hash is on this node. When there are none, EXISTS checks that (see preflight.lua).
local function check_job(key, job, field_list, transaction)
    if not field_list then
        if key ~= DECLARED_KEY then redis.call('EXISTS', DECLARED_KEY, key) end
        return nil, {'missing'}
    end
    if job[F.alias] then return nil, {'moved', job[F.alias]} end
    if job[F.transaction] and job[F.transaction] ~= transaction then
        return nil, {'prepared', job[F.transaction]}
    end
    if not has_valid_fields(job) or not is_state(job[F.state]) then return nil, {'malformed'} end
    -- Such a job may append effects when it, or its lease, ends: see append_effect.lua.
    if job[F.workflow] or job[F.unique] or job[F.limit] then preflight_key(OUTBOX) preflight_key(OUTBOX_DUE) end
    if job[F.limit] then preflight_limit(job) end
    if job[F.tenant] then
        preflight_key(tenant_queue_key(job[F.queue] or '', job[F.tenant]))
        preflight_key(tenant_counters_key(job[F.tenant]))
        preflight_key(tenant_turns_key(job[F.queue] or ''))
        preflight_key(queue_counters_key(job[F.queue] or ''))
    end
    if job[F.parked] then preflight_parked(job) end
    job.field_list = field_list
    return job
end

-- Reads all fields of a job. Parameters and results: see check_job.
local function load_job(key, transaction)
    local field_list, job = redis.call('HGETALL', key), {}
    for i = 1, #field_list, 2 do job[field_list[i]] = field_list[i + 1] end
    return check_job(key, job, #field_list > 0 and field_list, transaction)
end

-- Writes fields of a job, to its hash and to the copy for the reply. In job.field_list a later value of a field
-- replaces an earlier one.
local function save_job(key, job, ...)
    redis.call('HSET', key, ...)
    local pairs_, field_list = {...}, job.field_list
    local length = #field_list
    for i = 1, #pairs_, 2 do
        local name, value = pairs_[i], pairs_[i + 1]
        -- tostring() would write a large number as 1e+15.
        if type(value) == 'number' then value = string.format('%.0f', value) end
        job[name], field_list[length + i], field_list[length + i + 1] = value, name, value
    end
end

-- Removes fields of a job. In job.field_list an empty value means that the field is absent.
local function drop_fields(key, job, ...)
    redis.call('HDEL', key, ...)
    for _, name in ipairs({...}) do
        job[name] = nil
        job.field_list[#job.field_list + 1] = name
        job.field_list[#job.field_list + 1] = ''
    end
end
