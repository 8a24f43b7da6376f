-- Deletes a terminal or waiting job and its index entries. The envelope and the result may be large, so they
-- are not read.
--@include tenant_queue leave_parked
local MAX_FREED_BYTES = 32 * 1024 * 1024 -- large fields that one script frees

-- Returns the job with the fields that a deletion needs. If there is no job, or its state or queue is missing
-- or unknown, returns nil and the reply, as load_job does.
local function load_index_fields(key)
    local found = redis.call('HMGET', key, F.state, F.queue, F.dead, F.expires, F.alias, F.transaction,
        F.checkpoint, F.tenant, F.parked)
    if found[5] then return nil, {'moved', found[5]} end
    if found[6] then return nil, {'prepared', found[6]} end
    if found[1] and found[2] and is_state(found[1]) then
        return {[F.state] = found[1], [F.queue] = found[2], [F.dead] = found[3] or nil,
            [F.expires] = found[4] or nil, [F.checkpoint] = found[7] or nil, [F.tenant] = found[8] or nil,
            [F.parked] = found[9] or nil,
            checkpoint_key = found[7] and checkpoint_key(job_id_of(key))}
    end
    if key ~= DECLARED_KEY then redis.call('EXISTS', DECLARED_KEY, key) end -- detects a moved key: see preflight.lua
    return nil, {redis.call('EXISTS', key) == 1 and 'malformed' or 'missing'}
end

-- Returns the size of the job's large fields in bytes.
local function freed_bytes(key, job)
    local checkpoint = tonumber(string.match(job[F.checkpoint] or '', '^%d+ (%d+) ')) or 0
    return redis.call('HSTRLEN', key, F.envelope) + redis.call('HSTRLEN', key, F.result)
        + redis.call('HSTRLEN', key, F.parents) + checkpoint
end

local function preflight_delete(job)
    if job[F.state] == 'available' then preflight_key(queue_available_key(job[F.queue]))
    else preflight_key(queue_counters_key(job[F.queue])) end
    if job[F.dead] then preflight_key(queue_dead_key(job[F.queue])) end
    if job[F.tenant] then
        preflight_key(tenant_queue_key(job[F.queue], job[F.tenant]))
        preflight_key(tenant_counters_key(job[F.tenant]))
    end
    if job[F.parked] then preflight_parked(job) end
    if job.checkpoint_key then preflight_key(job.checkpoint_key) end
end

local function delete_job(id, key, job)
    local queue, state = job[F.queue], job[F.state]
    if state == 'available' then
        remove_member(job[F.parked] and queue_blocked_key(queue) or queue_available_key(queue), id)
        if job[F.parked] then leave_parked(id, job) end
        leave_tenant_queue(id, job)
    else
        count_job(job, state, -1)
    end
    if job[F.dead] then
        remove_member(DEAD, id)
        remove_member(queue_dead_key(queue), id)
    end
    remove_member(FINISHED, id)
    if job[F.expires] then remove_member(EXPIRING, id) end
    if job.checkpoint_key then redis.call('UNLINK', key, job.checkpoint_key)
    else redis.call('UNLINK', key) end
end
