-- Reads the small fields of jobs. A list then reads all fields only of those jobs whose small fields match.
-- Memory: no-writes.
-- KEYS: 1 any key of the shard.
-- ARGV: 1.. ids of jobs.
-- Returns: per id {state, type, queue, priority, attempt, worker, created, finished, dead, hidden, started,
--          tenant}, each nil when absent; an empty list for an alias, a prepared job or a missing job
--@include keys fields
local reply = {}
for i, id in ipairs(ARGV) do
    local found = redis.call('HMGET', job_key(id), F.state, F.type, F.queue, F.priority, F.attempt, F.worker,
        F.created, F.finished, F.dead, F.hidden, F.started, F.tenant, F.alias, F.transaction)
    if not found[1] or found[13] or found[14] then found = {}
    else found[13], found[14] = nil, nil end
    reply[i] = found
end
return reply
