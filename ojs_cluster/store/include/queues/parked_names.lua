-- The parked jobs of one tenant, for a fetch of jobs of any tenant (see merged_rows.lua).

-- How many names a script may look up of tenants that have such jobs. A tenant that is passed keeps its turn.
local parked_names_left = 200

-- Returns under which of the names of a queue's parked jobs a tenant has some.
local function parked_names_of(queue, tenant)
    local keys, found = {}, {}
    for i, name in ipairs(queue.parked) do keys[i] = parked_jobs_key(queue.name, name, tenant) end
    local left = redis.call('EXISTS', unpack(keys)) -- usually none
    for i, key in ipairs(keys) do
        if left == 0 or parked_names_left == 0 then break end
        parked_names_left = parked_names_left - 1
        if redis.call('EXISTS', key) == 1 then found[#found + 1], left = queue.parked[i], left - 1 end
    end
    return found
end
