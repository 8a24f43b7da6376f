-- The state of one rate limit key, in the shard of the key. KEYS of every script that includes this:
-- 1 l:, 2 lh: tokens given out (0 granted, 1 started), 3 la: tokens asked for, in turn, 4 the shard's
-- lims, 5 limlook, 6 ob, 7 out. ARGV[1] is the key. A token is named by who asks for it:
-- 'shard/job/number'. Fields of l:: limits, at (when the job was created that declared them last),
-- over, over_until (an operator's override), hold (ms until which nothing starts), starts, next (see
-- gauges.lua), seq (of asks), used (ms of the last use).
local KEEP_MS = 24 * 3600 * 1000
local LATER_MS = 5000 -- where only the end of another job makes room
local flat, limit, answered, returned = redis.call('HGETALL', KEYS[1]), {}, {}, {}
for i = 1, #flat, 2 do limit[flat[i]] = flat[i + 1] end
local out, coming = redis.call('ZCARD', KEYS[2]), redis.call('ZCOUNT', KEYS[2], 0, 0)

local function set_limit(name, value)
    limit[name] = value
    redis.call('HSET', KEYS[1], name, value)
end

local function override_holds()
    return limit.over and (limit.over_until == '' or tonumber(limit.over_until) > now)
end

local function limit_meter()
    local meter, packed = {}, limit.limits or '-,-,-'
    if override_holds() then
        local over = string.gmatch(limit.over, '[^,]+')
        packed = string.gsub(packed, '[^,]+', function(own)
            local value = over()
            return value == '-' and own or value
        end)
    end
    add_limits(meter, packed, out, limit.starts, limit.next)
    return meter
end

-- Jobs start with tokens that were granted.
local function count_starts(n)
    coming = coming - n
    local fields = start(limit_meter(), n)
    for i = 1, #fields, 2 do set_limit(fields[i], fields[i + 1]) end
end

-- An ask leaves the list, at the end of the script.
local function answer(token)
    answered[token] = true
    table.insert(answered, token)
end

-- Gives tokens to those who have asked first, as far as there is room. Returns which.
local function dispense()
    local meter, shards, granted = limit_meter(), {}, {}
    local free = tonumber(limit.hold or 0) > now and 0 or room(meter, 1000, coming)
    local verdict = '+'
    for _, gauge in ipairs(meter) do if gauge.timed then verdict = '+w' end end
    local asked = free > 0 and redis.call('ZRANGE', KEYS[3], 0, free + #answered - 1) or {}
    for _, token in ipairs(asked) do
        if free > 0 and not answered[token] then
            local shard, ask = string.match(token, '^(%d+)/(.*)$')
            if not shards[shard] then table.insert(shards, shard) end
            shards[shard] = (shards[shard] or '') .. ' ' .. ask
            redis.call('ZADD', KEYS[2], 0, token)
            free, out, coming, granted[token] = free - 1, out + 1, coming + 1, true
            answer(token)
        end
    end
    for _, shard in ipairs(shards) do
        owe('grant', shard .. ' ' .. ARGV[1] .. ' ' .. verdict .. shards[shard])
    end
    return granted
end
