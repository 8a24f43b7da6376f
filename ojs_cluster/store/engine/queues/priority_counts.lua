-- Counts a queue's available jobs in this shard by priority, blocked jobs included. Changes nothing. Each
-- priority with jobs costs two commands in each set, so a call runs about 800 at most.
-- Memory: no-writes.
-- KEYS: 1 queue_available, 2 queue_blocked.
-- Returns: {priority, jobs, ...}, highest priority first; nothing for a priority without jobs
--@include priority_base
local counts = {}
for _, key in ipairs(KEYS) do
    local from, band = '0', nil -- a damaged score may be below 0
    repeat
        local first = redis.call('ZRANGEBYSCORE', key, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
        band = first[2] and math.floor(first[2] / BAND)
        if band then
            local after = string.format('%.0f', (band + 1) * BAND)
            counts[band] = (counts[band] or 0) + redis.call('ZCOUNT', key, first[2], '(' .. after)
            from = after
        end
    until not band or band >= 200
end
local reply = {}
for band = 0, 200 do
    if counts[band] then reply[#reply + 1], reply[#reply + 2] = 100 - band, counts[band] end
end
return reply
