-- Parks the jobs of other types that a fetch finds before its own (leave_parked.lua explains parked jobs).
-- `queue.types`: a line for each type that the fetch names, between line breaks; '' for any type.
--@include add_later parked_keys set_deadline
local parking = {} -- one table of functions, because a script may have 200 locals

-- Returns whether the fetch does not name the type of the job. Runs before the first write, for every job that the
-- fetch may take.
function parking.is_other_type(queue, job)
    local kind = job[F.type]
    if queue.types == '' or string.find(queue.types, '\n' .. kind .. '\n', 1, true) then return false end
    preflight_parked({[F.queue] = queue.name, [F.parked] = kind, [F.tenant] = job[F.tenant]})
    return true
end

-- Prepares for due jobs, which may be parked after their promotion.
function parking.preflight_due(queue, runs)
    for _, run in ipairs(runs) do
        if run.job and run.job[F.queue] == queue.name then parking.is_other_type(queue, run.job) end
    end
end

-- Reads of a job only what parking needs. Returns nil when the job is of a type that the fetch names, and when it
-- has something that comes before its type.
function parking.load(queue, id)
    if queue.types == '' then return end
    local found = redis.call('HMGET', job_key(id), F.type, F.state, F.queue, F.tenant, F.limit, F.token,
        F.transaction, F.hold, F.expires, F.parked)
    if not found[1] or found[2] ~= 'available' or found[3] ~= queue.name or found[6] or found[7] or found[8]
        or found[9] and (tonumber(found[9]) or 0) <= now or found[10] then return end
    local job = {[F.type] = found[1], [F.queue] = queue.name, [F.tenant] = found[4] or nil, [F.limit] = found[5] or nil}
    if not parking.is_other_type(queue, job) then return end
    if job[F.tenant] then preflight_key(tenant_queue_key(queue.name, job[F.tenant])) end
    return job
end

function parking.park(queue, id, job, score)
    local entry = {[F.queue] = queue.name, [F.parked] = job[F.type], [F.tenant] = job[F.tenant]}
    redis.call('HSET', job_key(id), F.parked, job[F.type])
    remove_member(queue.available, id)
    unindex_for_tenant(id, job)
    add_later(queue.blocked, score, id)
    for _, key in ipairs(parked_keys(entry)) do add_later(key, score, id) end
    add_later(QUARANTINE, now + PARKED_CHECK_MS, id)
    -- The job keeps its token for a second, for a worker that waits for it.
    if job[F.token] then set_deadline(TOKEN_GRANTS, id, now + 1000) end
    queue.has_parked = true
end

-- Returns what is left in the indexes of a job that is not parked any more, or missing. Runs before the first write.
function parking.load_entry(queue, id)
    if queue.entries[id] then return queue.entries[id] end
    local kind, tenant = unpack(redis.call('HMGET', job_key(id), F.parked, F.tenant))
    local entry = {[F.queue] = queue.name, [F.parked] = kind or queue.parked_in[id].name, [F.tenant] = tenant or nil}
    preflight_parked(entry)
    queue.entries[id] = entry
    return entry
end

function parking.remove_entry(queue, id, entry)
    remove_member(queue.blocked, id)
    remove_member(queue.parked_in[id].key, id)
    for _, key in ipairs(parked_keys(entry)) do remove_member(key, id) end
end
