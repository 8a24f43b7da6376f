-- Reads of which types the parked jobs of a queue are (leave_parked.lua); changes nothing.
-- Memory: no-writes.
-- KEYS: 1 parked_jobs of all types.
-- ARGV: 1 queue, 2 number of jobs whose types are read; of more jobs, some at equal distances in the queue.
-- Returns: {type, number of its parked jobs, ms at which the oldest of those that were read became available, ...}
--@include keys fields
local wanted, count = tonumber(ARGV[2]), redis.call('ZCARD', KEYS[1])
local types, since, reply = {}, {}, {}
for i = 0, math.min(count, wanted) - 1 do
    local rank = math.floor(i * math.max(count / wanted, 1))
    local id = redis.call('ZRANGE', KEYS[1], rank, rank)[1]
    local name, enqueued, created = unpack(redis.call('HMGET', job_key(id), F.parked, F.enqueued, F.created))
    local at = tonumber(enqueued or created or nil)
    if name and at then
        if not since[name] then types[#types + 1] = name end
        since[name] = math.min(since[name] or at, at)
    end
end
for _, name in ipairs(types) do
    reply[#reply + 1], reply[#reply + 2] = name, redis.call('ZCARD', parked_jobs_key(ARGV[1], name, ''))
    reply[#reply + 1] = since[name]
end
return reply
