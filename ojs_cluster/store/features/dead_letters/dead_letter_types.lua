-- Counts dead letters of a set by job type; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 a sorted set of dead letters: those of the shard, or of one queue.
-- ARGV: 1 position of the first dead letter, where the newest one has 0; 2 position of the last one.
-- Returns: {type, number of dead letters, ...}
--@include keys fields
local counts, reply = {}, {}
for _, id in ipairs(redis.call('ZREVRANGE', KEYS[1], ARGV[1], ARGV[2])) do
    local job_type = redis.call('HGET', job_key(id), F.type)
    -- The hash is absent if the entry is left over from a removed job.
    if job_type then counts[job_type] = (counts[job_type] or 0) + 1 end
end
for job_type, count in pairs(counts) do
    reply[#reply + 1], reply[#reply + 2] = job_type, count
end
return reply
