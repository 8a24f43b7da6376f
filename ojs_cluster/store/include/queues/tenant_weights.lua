-- The weights of tenants in the fair share of a queue. Every shard has a copy of those other than 1
-- (ojs_cluster/store/features/tenants/weights.py).
local steps = {} -- tenant -> part of a turn

-- Returns the part of a turn that one job of a tenant takes: a tenant of weight 3 starts three jobs in each turn. A
-- damaged weight counts as 1. The caller has a preflight of the key, because this also runs after the first write.
local function turn_step(tenant)
    if not steps[tenant] then
        local weight = tonumber(redis.call('HGET', TENANT_WEIGHTS, tenant) or 1)
        steps[tenant] = weight and weight >= 0.01 and weight <= 100 and 1 / weight or 1
    end
    return steps[tenant]
end
