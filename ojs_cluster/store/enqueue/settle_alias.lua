-- Settles aliases of one shard whose jobs were looked up: keeps or removes each alias, or plans another check.
-- Pre:  no producer claimed the id during the last `age` ms. A producer that has claimed the id recently may be
--       about to store its job, so its alias is left alone and stays listed for the janitor.
-- Post: 'keep':  the alias stays, and its claim is no longer listed.
--       'drop':  the alias is removed, if it still points to the shard that was checked.
--       'later': the janitor checks the alias again after the same time.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 alias_claims, then per alias the job hash of its id.
-- ARGV: 1 age (ms), then per alias: id, decision, index of the shard that was checked.
--       decision: 'keep' (the job was seen) | 'drop' (there is no such job, or it is removed now) |
--       'later' (the id has a reservation or a tombstone, or could not be checked)
-- Returns: number of aliases removed
--@include now long_lists
local alias_claims, age = KEYS[1], tonumber(ARGV[1])
local removed, settled = 0, {}
for i = 2, #KEYS do
    local id, decision, shard = unpack(ARGV, 3 * i - 4, 3 * i - 2) -- ARGV[2..4] belong to KEYS[2]
    local claimed = redis.call('ZSCORE', alias_claims, id)
    if not claimed or now - claimed >= age then
        if decision == 'later' then
            redis.call('ZADD', alias_claims, 'XX', now, id)
        else
            if decision == 'drop' and redis.call('HGET', KEYS[i], '@') == shard then
                removed = removed + redis.call('DEL', KEYS[i])
            else
                redis.call('HDEL', KEYS[i], '@c') -- the claimer must not release the alias any more
            end
            settled[#settled + 1] = id
        end
    end
end
-- Removals come last: an emptied set is deleted, and its key cannot be touched again (see preflight.lua).
call_in_slices('ZREM', alias_claims, settled)
return removed
