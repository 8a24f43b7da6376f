-- Counters of tenants. They are in the shard of the jobs: once for all of its queues, and once for each queue as
-- '<queue>/<field>', because the name of a queue has no slash.
local tenant_changes -- tenant -> field -> number to add; nil while no job with a tenant was counted
-- tenant -> queue -> a state that has more jobs of both now, true if none has
local tenant_queues = {}
local TENANT_STATES = {'available', 'scheduled', 'retryable', 'pending', 'active', 'completed', 'cancelled',
    'discarded'}
local is_tenant_state = {}
for _, state in ipairs(TENANT_STATES) do is_tenant_state[state] = true end
local function count_for_tenant(job, field, by)
    local tenant, queue = job[F.tenant], job[F.queue]
    tenant_changes = tenant_changes or {}
    local changes, queues = tenant_changes[tenant] or {}, tenant_queues[tenant] or {}
    tenant_changes[tenant], tenant_queues[tenant] = changes, queues
    queues[queue] = by > 0 and is_tenant_state[field] and field or queues[queue] or true
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
local TENANT_KEEP_MS = 7 * 86400 * 1000
local TENANT_WITH_JOBS_KEEP_MS = 400 * 86400 * 1000
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

-- Writes the counters of a tenant. A state whose number has grown shows, without another read, that there are jobs.
local function flush_counters_of(tenant, changes)
    local key, names, write, numbers, has_jobs = tenant_counters_key(tenant), {}, {}, {}, false
    for name in pairs(changes) do names[#names + 1] = name end
    for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do
        local name = names[i]
        numbers[name] = (tonumber(value) or 0) + changes[name]
        write[2 * i - 1], write[2 * i] = name, numbers[name]
        has_jobs = has_jobs or is_tenant_state[name] and numbers[name] > 0
    end
    redis.call('HSET', key, unpack(write))
    for queue, state in pairs(tenant_queues[tenant]) do
        if state == true or numbers[queue .. '/' .. state] <= 0 then drop_queue_without_jobs(key, queue) end
    end
    if not has_jobs then
        for _, number in ipairs(redis.call('HMGET', key, unpack(TENANT_STATES))) do
            has_jobs = has_jobs or number and (tonumber(number) or 0) > 0
        end
    end
    redis.call('PEXPIRE', key, has_jobs and TENANT_WITH_JOBS_KEEP_MS or TENANT_KEEP_MS)
end

local function flush_tenant_counters()
    for tenant, changes in pairs(tenant_changes) do flush_counters_of(tenant, changes) end
end
