-- What the workers of one shard last said of themselves, heard of last first; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 the shard's workers.  ARGV: 1 most workers.
-- Returns: {now, workers known, per worker: ms of its last contact, of its last heartbeat or '', the
--           state it reported, its directive or ''}
--@include keys now
local reply = {now, redis.call('ZCARD', KEYS[1])}
for _, id in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, ARGV[1] - 1)) do
    local said = redis.call('HMGET', worker_key(id), 'seen', 'beat', 'state', 'directive')
    if said[1] then
        reply[#reply + 1] = said[1]
        reply[#reply + 1] = said[2] or ''
        reply[#reply + 1] = said[3] or 'running'
        reply[#reply + 1] = said[4] or ''
    end
end
return reply
