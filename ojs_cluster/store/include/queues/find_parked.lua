-- Returns under which names a queue has parked jobs that a fetch may take: '' for all of them. `types`: a line for each
-- type that the fetch names, between line breaks; '' for any. `tenant`: whose jobs it takes, '' for any.
local function find_parked(queue, types, tenant)
    if redis.call('EXISTS', parked_jobs_key(queue, '', tenant)) == 0 then return {} end
    if types == '' then return {''} end
    local names, keys, found = {}, {}, {}
    for name in string.gmatch(types, '[^\n]+') do
        names[#names + 1], keys[#keys + 1] = name, parked_jobs_key(queue, name, tenant)
    end
    local left = redis.call('EXISTS', unpack(keys)) -- usually none
    for i, key in ipairs(keys) do
        if left == 0 then break end
        if redis.call('EXISTS', key) == 1 then found[#found + 1], left = names[i], left - 1 end
    end
    return found
end

-- Returns how many parked jobs of a queue a fetch may take.
local function count_parked(queue, types, tenant)
    local count = 0
    for _, name in ipairs(find_parked(queue, types, tenant)) do
        count = count + redis.call('ZCARD', parked_jobs_key(queue, name, tenant))
    end
    return count
end

-- Returns whether some blocked jobs of a queue wait for tokens. An earlier version may leave entries of parked jobs, so
-- the numbers alone do not prove that there are none.
local function waits_for_tokens(queue, blocked_key)
    return redis.call('ZCARD', blocked_key) ~= redis.call('ZCARD', parked_jobs_key(queue, '', ''))
        or redis.call('EXISTS', token_demand_key(queue)) == 1
end
