-- How a job's hash is read and written.
--@include fields validate_job

-- The key of a job's rate limit, and the preflight of the keys that the job may touch because of it.
local function limit_of(job) return (string.match(job[F.limit], '^%S*')) end
local function preflight_limit(job)
    local queue, key = job[F.queue] or '', limit_of(job)
    for _, name in ipairs({queue_blocked_key(queue), token_demand_key(queue), token_unrequested_key(queue, key),
        token_requested_key(queue, key), TOKEN_GRANTS}) do preflight_key(name) end
end

-- Reads a job. Returns the fields as a table and as HGETALL gave them, or nil and a reply:
-- {'missing'}, {'moved', shard} when the id is a client's and its job lives elsewhere,
-- {'prepared', transaction} while that `transaction` has not published it, or
-- {'malformed'} (validate_job.lua).
-- Fields that were read prove that the key is on this node; for a missing key see preflight.lua.
local function check_job(key, job, flat, transaction)
    if not flat then
        if key ~= KEYS[1] then redis.call('EXISTS', KEYS[1], key) end
        return nil, {'missing'}
    end
    if job[F.alias] then return nil, {'moved', job[F.alias]} end
    if job[F.transaction] and job[F.transaction] ~= transaction then
        return nil, {'prepared', job[F.transaction]}
    end
    if not has_valid_fields(job) or not is_state(job[F.state]) then return nil, {'malformed'} end
    -- The end of the job or of its lease may append effects: see append_effect.lua.
    if job[F.workflow] or job[F.unique] or job[F.limit] then preflight_key(OUTBOX) preflight_key(OUTBOX_DUE) end
    if job[F.limit] then preflight_limit(job) end
    job.flat = flat
    return job
end

local function load_job(key, transaction)
    local flat, job = redis.call('HGETALL', key), {}
    for i = 1, #flat, 2 do job[flat[i]] = flat[i + 1] end
    return check_job(key, job, #flat > 0 and flat, transaction)
end

-- Writes fields of a job, also to the copy that is returned: later pairs win there.
local function save_job(key, job, ...)
    redis.call('HSET', key, ...)
    local pairs_, flat = {...}, job.flat
    local length = #flat
    for i = 1, #pairs_, 2 do
        local name, value = pairs_[i], pairs_[i + 1]
        -- tostring() would write a large number as 1e+15.
        if type(value) == 'number' then value = string.format('%.0f', value) end
        job[name], flat[length + i], flat[length + i + 1] = value, name, value
    end
end

-- Drops fields of a job; an empty value in the returned copy means absent.
local function drop_fields(key, job, ...)
    redis.call('HDEL', key, ...)
    for _, name in ipairs({...}) do
        job[name] = nil
        job.flat[#job.flat + 1] = name
        job.flat[#job.flat + 1] = ''
    end
end
