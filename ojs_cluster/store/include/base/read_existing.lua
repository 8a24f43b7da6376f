-- What keeps a new job out of its key: a job, and then what tells whether it is the same one; a fence; or
-- a reservation; or an alias. Results and errors may be large, and nobody asks for them.
local function read_existing(key)
    local names, flat = {F.transaction, F.tombstone, F.alias, F.state, F.queue, F.priority, F.type, F.max_attempts, F.envelope}, {}
    for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do
        if value then flat[#flat + 1], flat[#flat + 2] = names[i], value end
    end
    return flat
end
