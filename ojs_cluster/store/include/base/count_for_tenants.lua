-- Counters of tenants. They are in the shard of the jobs: once for all of its queues, and once for each queue as
-- '<queue>/<field>', because the name of a queue has no slash.
local tenant_changes -- tenant -> field -> number to add; nil while no job with a tenant was counted
local tenant_queues = {} -- tenant -> queue -> true
local function count_for_tenant(job, field, by)
    local tenant, queue = job[F.tenant], job[F.queue]
    tenant_changes = tenant_changes or {}
    local changes, queues = tenant_changes[tenant] or {}, tenant_queues[tenant] or {}
    tenant_changes[tenant], tenant_queues[tenant], queues[queue] = changes, queues, true
    local of_queue = queue .. '/' .. field
    changes[field], changes[of_queue] = (changes[field] or 0) + by, (changes[of_queue] or 0) + by
end

-- Counts a change of a job in its queue, and for its tenant.
local function count_job(job, field, by)
    count(job[F.queue], field, by)
    if job[F.tenant] then count_for_tenant(job, field, by) end
end

-- The counters of a tenant without jobs are kept for TENANT_KEEP_MS. Those of a tenant with jobs are kept for
-- TENANT_WITH_JOBS_KEEP_MS after the last change, because a process of an earlier version may have left a number
-- too high, and the key must have an end.
local TENANT_KEEP_MS, TENANT_WITH_JOBS_KEEP_MS = 7 * 86400 * 1000, 400 * 86400 * 1000
local TENANT_STATES = {'available', 'scheduled', 'retryable', 'pending', 'active', 'completed', 'cancelled',
    'discarded'}
local TENANT_TOTALS = {'enqueued', 'acked', 'failed', 'retried_total', 'discarded_total', 'cancelled_total',
    'expired_total', 'run_ms', 'wait_ms'}

-- Removes the counters of a queue where the tenant has no jobs, so that the names of queues do not add up.
local function drop_queue_without_jobs(key, queue)
    local names = {}
    for i, state in ipairs(TENANT_STATES) do names[i] = queue .. '/' .. state end
    for _, number in ipairs(redis.call('HMGET', key, unpack(names))) do
        if number and tonumber(number) ~= 0 then return end
    end
    for _, total in ipairs(TENANT_TOTALS) do names[#names + 1] = queue .. '/' .. total end
    redis.call('HDEL', key, unpack(names))
end

-- Writes the counters of a tenant.
local function flush_counters_of(tenant, changes)
    local key, names, write, keep_ms = tenant_counters_key(tenant), {}, {}, TENANT_KEEP_MS
    for name in pairs(changes) do names[#names + 1] = name end
    for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do
        write[2 * i - 1], write[2 * i] = names[i], (tonumber(value) or 0) + changes[names[i]]
    end
    redis.call('HSET', key, unpack(write))
    for queue in pairs(tenant_queues[tenant]) do drop_queue_without_jobs(key, queue) end
    for _, number in ipairs(redis.call('HMGET', key, unpack(TENANT_STATES))) do
        if number and (tonumber(number) or 0) > 0 then keep_ms = TENANT_WITH_JOBS_KEEP_MS end
    end
    redis.call('PEXPIRE', key, keep_ms)
end

local function flush_tenant_counters()
    for tenant, changes in pairs(tenant_changes) do flush_counters_of(tenant, changes) end
end
