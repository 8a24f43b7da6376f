-- Reads an available job with any fields, for fetch.lua, before its first write. `types`: as in find_parked.lua, nil
-- for any. Returns the job, or nil and the reason for which fetch.lua leaves it to the full path.
--@include validate_job
local function load_for_lease(id, key, types)
    local field_list = redis.call('HGETALL', key)
    local job = {id = id, key = key, field_list = field_list}
    for i = 1, #field_list, 2 do job[field_list[i]] = field_list[i + 1] end
    if job[F.state] ~= 'available' or job[F.transaction] or not has_valid_fields(job)
        or job[F.hold] or job[F.suspect] or job[F.expires] and tonumber(job[F.expires]) <= now then
        return nil, 'full_path'
    end
    if job[F.limit] and not job[F.token] or job[F.max_per_second]
        or types and not string.find(types, '\n' .. job[F.type] .. '\n', 1, true) then
        return nil, 'limited_job'
    end
    -- Keys that KEYS does not name are read before the first write: see preflight.lua.
    if job[F.timeout] or job[F.expires] then
        redis.call('EXISTS', DECLARED_KEY, EXECUTION_DEADLINES, EXPIRING)
    end
    if job[F.token] then redis.call('EXISTS', DECLARED_KEY, TOKEN_GRANTS, OUTBOX, OUTBOX_DUE) end
    if job[F.tenant] then
        redis.call('EXISTS', DECLARED_KEY, tenant_queue_key(job[F.queue], job[F.tenant]),
            tenant_counters_key(job[F.tenant]))
    end
    return job
end
