-- Gives tokens of a rate limit key to those who have asked first, as far as there is room. Returns which.
local function dispense(limit)
    local meter, shards, granted = limit_meter(limit), {}, {}
    local free, verdict = limit_room(limit, meter), '+'
    for _, gauge in ipairs(meter) do if gauge.timed then verdict = '+w' end end
    local asked = free > 0 and redis.call('ZRANGE', limit.la, 0, free + #limit.answered - 1) or {}
    for _, token in ipairs(asked) do
        if free > 0 and not limit.answered[token] then
            local shard, ask = string.match(token, '^(%d+)/(.*)$')
            if not shards[shard] then table.insert(shards, shard) end
            shards[shard] = (shards[shard] or '') .. ' ' .. ask
            redis.call('ZADD', limit.lh, 0, token)
            free, granted[token] = free - 1, true
            limit.out, limit.coming = limit.out + 1, limit.coming + 1
            answer(limit, token)
        end
    end
    for _, shard in ipairs(shards) do
        owe('grant', shard .. ' ' .. limit.key .. ' ' .. verdict .. shards[shard])
    end
    return granted
end
