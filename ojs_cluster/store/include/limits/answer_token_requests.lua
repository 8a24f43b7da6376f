-- Answers to token requests of a rate limit key.

-- Sends granted tokens to the shards that requested them. A repeated answer changes nothing for a job that has
-- the token. A shard that does not know the request returns the token.
local function send_tokens(limit, tokens)
    local answer, shards = '+', {}
    for _, limiter in ipairs(limiters_of(limit)) do if limiter.timed then answer = '+w' end end
    for _, token in ipairs(tokens) do
        local shard, request = string.match(token, '^(%d+)/(.*)$')
        if not shards[shard] then table.insert(shards, shard) end
        shards[shard] = (shards[shard] or '') .. ' ' .. request
    end
    for _, shard in ipairs(shards) do
        append_effect('token_answer', shard .. ' ' .. limit.key .. ' ' .. answer .. shards[shard])
    end
end

-- Adds an event about the key. The job may be in another shard, so the event has only its id.
local function emit_limit_event(limit, kind, token, ...)
    local id = string.match(token, '^%d+/(.*)/%d+$') or ''
    emit(kind, id, {[F.type] = '', [F.queue] = ''}, 'k', limit.key, ...)
end

local function emit_exceeded(limit, token)
    for _, limiter in ipairs(limiters_of(limit)) do
        local left = limiter.free() - (limiter.timed and limit.granted or 0)
        if left <= 0 then
            set_limit_field(limit, 'strategy', limiter.name)
            emit_limit_event(limit, 'rate_limit.exceeded', token, 's', limiter.name, 'l', limiter.limit,
                'u', string.format('%.0f', limiter.limit - left))
            return
        end
    end
end

-- Grants tokens to the oldest requests, as many as are free. Returns the granted tokens.
-- `new`: the requests of this script.
local function grant_tokens(limit, new)
    local free, granted = free_tokens(limit), {}
    local requests = free > 0
        and redis.call('ZRANGE', limit.requesters_key, 0, free + #limit.answered - 1) or {}
    for _, token in ipairs(requests) do
        if free > 0 and not limit.answered[token] then
            redis.call('ZADD', limit.holders_key, 0, token)
            free, granted[token] = free - 1, true
            limit.holders, limit.granted = limit.holders + 1, limit.granted + 1
            table.insert(granted, token)
            remove_request(limit, token)
            if not new or not new[token] then
                emit_limit_event(limit, 'rate_limit.released', token, 's', limit.fields.strategy or 'wait')
            end
        end
    end
    send_tokens(limit, granted)
    return granted
end
