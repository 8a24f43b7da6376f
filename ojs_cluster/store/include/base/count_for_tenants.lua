-- Counters of tenants. They are in the shard of the jobs: once for all of its queues, and once for each queue as
-- '<queue>/<field>', because the name of a queue has no slash.
local tenant_changes -- tenant -> field -> number to add; nil while no job with a tenant was counted
local function count_for_tenant(job, field, by)
    tenant_changes = tenant_changes or {}
    local changes = tenant_changes[job[F.tenant]] or {}
    tenant_changes[job[F.tenant]] = changes
    local of_queue = job[F.queue] .. '/' .. field
    changes[field], changes[of_queue] = (changes[field] or 0) + by, (changes[of_queue] or 0) + by
end

-- Counts a change of a job in its queue, and for its tenant.
local function count_job(job, field, by)
    count(job[F.queue], field, by)
    if job[F.tenant] then count_for_tenant(job, field, by) end
end

-- Writes the counters of a tenant. A tenant without jobs loses its counters after TENANT_KEEP_MS.
local TENANT_KEEP_MS = 7 * 86400 * 1000
local TENANT_STATES = {'available', 'scheduled', 'retryable', 'pending', 'active', 'completed', 'cancelled',
    'discarded'}
local function flush_counters_of(tenant, changes)
    local key, names, write = tenant_counters_key(tenant), {}, {}
    for name in pairs(changes) do names[#names + 1] = name end
    for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do
        write[2 * i - 1], write[2 * i] = names[i], (tonumber(value) or 0) + changes[names[i]]
    end
    redis.call('HSET', key, unpack(write))
    for _, number in ipairs(redis.call('HMGET', key, unpack(TENANT_STATES))) do
        if number and tonumber(number) ~= 0 then return redis.call('PERSIST', key) end
    end
    redis.call('PEXPIRE', key, TENANT_KEEP_MS)
end

local function flush_tenant_counters()
    for tenant, changes in pairs(tenant_changes) do flush_counters_of(tenant, changes) end
end
