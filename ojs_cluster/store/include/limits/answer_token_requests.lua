-- Answers those who ask for tokens of a rate limit key.

-- Owes the offer of tokens to the shards that asked for them. Offered again, a token changes nothing for
-- a job that has it, and comes back from a shard that knows nothing of it.
local function offer(limit, tokens)
    local verdict, shards = '+', {}
    for _, gauge in ipairs(limit_meter(limit)) do if gauge.timed then verdict = '+w' end end
    for _, token in ipairs(tokens) do
        local shard, ask = string.match(token, '^(%d+)/(.*)$')
        if not shards[shard] then table.insert(shards, shard) end
        shards[shard] = (shards[shard] or '') .. ' ' .. ask
    end
    for _, shard in ipairs(shards) do
        append_effect('token_answer', shard .. ' ' .. limit.key .. ' ' .. verdict .. shards[shard])
    end
end

-- An event about the key. It is written here, so it says nothing of the job but its id.
local function tell(limit, kind, token, ...)
    local id = string.match(token, '^%d+/(.*)/%d+$') or ''
    emit(kind, id, {[F.type] = '', [F.queue] = ''}, 'k', limit.key, ...)
end

local function tell_exceeded(limit, token)
    for _, gauge in ipairs(limit_meter(limit)) do
        local left = gauge.room() - (gauge.timed and limit.coming or 0)
        if left <= 0 then
            set_limit(limit, 'strategy', gauge.name)
            return tell(limit, 'rate_limit.exceeded', token, 's', gauge.name, 'l', gauge.limit,
                'u', string.format('%.0f', gauge.limit - left))
        end
    end
end

-- Gives tokens to those who have asked first, as far as there is room. Returns which. `new` have asked
-- just now.
local function dispense(limit, new)
    local free, granted = limit_room(limit, limit_meter(limit)), {}
    local asked = free > 0 and redis.call('ZRANGE', limit.la, 0, free + #limit.answered - 1) or {}
    for _, token in ipairs(asked) do
        if free > 0 and not limit.answered[token] then
            redis.call('ZADD', limit.lh, 0, token)
            free, granted[token] = free - 1, true
            limit.out, limit.coming = limit.out + 1, limit.coming + 1
            table.insert(granted, token)
            answer(limit, token)
            if not new or not new[token] then
                tell(limit, 'rate_limit.released', token, 's', limit.fields.strategy or 'wait')
            end
        end
    end
    offer(limit, granted)
    return granted
end
