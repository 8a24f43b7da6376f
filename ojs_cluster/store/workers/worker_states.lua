-- Reads what the workers of one shard last reported, the last seen first. Changes nothing.
-- Memory: no-writes.
-- KEYS: 1 workers.
-- ARGV: 1 limit.
-- Returns: {now, workers known, per worker: ms at which it was last seen, of its last heartbeat or '', the
--           state it reported, its directive or ''}
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
