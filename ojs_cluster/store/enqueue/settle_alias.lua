-- Aliases of one shard are settled, each by itself: 'keep' (its job was seen), 'drop' (there is no such
-- job, or it goes), or 'later' (what its id meets there is no job, and will become one or go, or it
-- could not be looked at): the janitor comes back.
-- Pre:  no producer claimed the id during the last `age` ms: one that did may be about to store
--       its job, and the claim's entry leads the janitor back here.
--       For drop, the alias still points to the shard that was asked.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the shard's claims, then per alias the job hash of its id.
-- ARGV: 1 age, then per alias: id, 'keep' | 'drop' | 'later', shard.
-- Returns: how many aliases were removed
--@include now long_lists
local removed, settled = 0, {}
for i = 2, #KEYS do
    local id, how, shard = unpack(ARGV, 3 * i - 4, 3 * i - 2)
    local claimed = redis.call('ZSCORE', KEYS[1], id)
    if not claimed or now - claimed >= tonumber(ARGV[1]) then
        if how == 'later' then
            redis.call('ZADD', KEYS[1], 'XX', now, id)
        else
            if how == 'drop' and redis.call('HGET', KEYS[i], '@') == shard then
                removed = removed + redis.call('DEL', KEYS[i])
            else
                redis.call('HDEL', KEYS[i], '@c') -- nobody is about to give it back any more
            end
            settled[#settled + 1] = id
        end
    end
end
-- Last, and at once: a set that becomes empty vanishes (see look.lua).
call_in_slices('ZREM', KEYS[1], settled)
return removed
