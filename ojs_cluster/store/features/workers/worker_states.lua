-- Reads the states that the workers of one shard have reported, the worker that was seen last first.
-- Memory: no-writes.
-- KEYS: 1 workers.
-- ARGV: 1 maximum number of workers.
-- Returns: {now, number of all workers of the shard, per worker: time when it was last seen (ms), time of its
--           last heartbeat (ms) or '', the state that it has reported, its directive or ''}
--@include keys now
local WORKERS, limit = KEYS[1], tonumber(ARGV[1])
local reply = {now, redis.call('ZCARD', WORKERS)}
for _, id in ipairs(redis.call('ZREVRANGE', WORKERS, 0, limit - 1)) do
    local record = redis.call('HMGET', worker_key(id), 'last_seen', 'last_heartbeat', 'state', 'directive')
    if record[1] then
        reply[#reply + 1] = record[1]
        reply[#reply + 1] = record[2] or ''
        reply[#reply + 1] = record[3] or 'running'
        reply[#reply + 1] = record[4] or ''
    end
end
return reply
