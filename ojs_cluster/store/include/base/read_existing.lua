-- Reads the hash that is already at the key of a new job: another job, a tombstone, an alias, or the
-- reservation of a transaction. Returns the fields by which the caller recognizes it, as HGETALL does. Results
-- and errors may be large, so they are not read.
local function read_existing(key)
    local names, field_list = {F.transaction, F.tombstone, F.alias, F.state, F.queue, F.priority, F.type,
        F.max_attempts, F.envelope}, {}
    for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do
        if value then field_list[#field_list + 1], field_list[#field_list + 2] = names[i], value end
    end
    return field_list
end
