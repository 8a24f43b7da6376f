-- Removes an alias that stands over a tombstone, or not. A tombstone under it (field `@u`: its shard and its token)
-- is there afterwards, because a stalled request may still try to store its job in this shard. The janitor removes it
-- ten minutes later. Returns whether nothing is left.
local function remove_alias(key, alias_claims, id)
    local shard, token = string.match(redis.call('HGET', key, '@u') or '', '^(%d+) (.*)$')
    if not shard then
        redis.call('DEL', key)
        return true
    end
    redis.call('ZADD', alias_claims, now, id)
    redis.call('HSET', key, '@', shard)
    if token ~= '' then redis.call('HSET', key, '@f', token) end
    redis.call('HDEL', key, '@u', '@c')
    return false
end
