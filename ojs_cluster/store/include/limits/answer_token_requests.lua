-- Answers to token requests of a rate limit key.

-- Sends granted tokens to the shards that requested them. The answer is '+w' when starts must be reported (see
-- limit_grant.lua). A repeated answer changes nothing for a job that has the token. A shard that does not know
-- the request returns the token.
local function send_tokens(limit, tokens)
    local answer, shards, requests_of = '+', {}, {}
    for _, limiter in ipairs(limiters_of(limit)) do if limiter.timed then answer = '+w' end end
    for _, token in ipairs(tokens) do
        local shard, request = string.match(token, '^(%d+)/(.*)$')
        if not requests_of[shard] then table.insert(shards, shard) end
        requests_of[shard] = (requests_of[shard] or '') .. ' ' .. request
    end
    for _, shard in ipairs(shards) do
        append_effect('token_answer', shard .. ' ' .. limit.key .. ' ' .. answer .. requests_of[shard])
    end
end

-- Adds an event about the key. `token`: that of the job that caused the event, or ''. The job may be in another
-- shard, so the event has its id but neither its type nor its queue. content.py names the fields ('k', ...).
local function emit_limit_event(limit, kind, token, ...)
    local id = string.match(token, '^%d+/(.*)/%d+$') or ''
    emit(kind, id, {[F.type] = '', [F.queue] = ''}, 'k', limit.key, ...)
end

-- Adds the event rate_limit.exceeded for the first limit that has no free start.
local function emit_exceeded(limit, token)
    for _, limiter in ipairs(limiters_of(limit)) do
        local free = limiter.free() - (limiter.timed and limit.uncounted or 0) - limit.reserved
        if free <= 0 then
            set_limit_field(limit, 'strategy', limiter.name)
            emit_limit_event(limit, 'rate_limit.exceeded', token, 's', limiter.name, 'l', limiter.limit,
                'u', string.format('%.0f', limiter.limit - free))
            return
        end
    end
end

-- Grants the free tokens to the oldest requests. Returns the granted tokens, as a list and as a set.
-- `new`: set of the requests that this script has added, nil for none. Tokens for other requests add
-- rate_limit.released, at most `max_events` times (store/ground/process_state/jobs_per_script.py). The tokens beyond
-- are reserved, and the scheduler grants them soon.
local function grant_tokens(limit, max_events, new)
    local free, granted, events_left = free_tokens(limit), {}, tonumber(max_events)
    -- Answered requests are still in the set until close_rate_limit.
    local requests = free > 0
        and redis.call('ZRANGE', limit.requesters_key, 0, free + #limit.answered - 1) or {}
    for _, token in ipairs(requests) do
        if free > 0 and not limit.answered[token] then
            free = free - 1
            local is_new = new and new[token]
            if is_new or events_left > 0 then
                redis.call('ZADD', limit.holders_key, 0, token)
                granted[token] = true
                limit.token_count, limit.uncounted = limit.token_count + 1, limit.uncounted + 1
                table.insert(granted, token)
                remove_request(limit, token)
                if not is_new then
                    events_left = events_left - 1
                    emit_limit_event(limit, 'rate_limit.released', token, 's', limit.fields.strategy or 'wait')
                end
            else limit.reserved = limit.reserved + 1 end
        end
    end
    send_tokens(limit, granted)
    return granted
end
