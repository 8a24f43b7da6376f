-- Reads what occupies the key of a new job: a job with the fields that identify it, a tombstone, a
-- reservation or an alias. Results and errors may be large, so they are not read.
local function read_existing(key)
    local names, flat = {F.transaction, F.tombstone, F.alias, F.state, F.queue, F.priority, F.type,
        F.max_attempts, F.envelope}, {}
    for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do
        if value then flat[#flat + 1], flat[#flat + 2] = names[i], value end
    end
    return flat
end
