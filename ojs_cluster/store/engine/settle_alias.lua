-- Settles aliases of one shard whose jobs were looked up: keeps or removes each alias, or plans another check.
-- Pre:  no producer claimed the id during the last `age` ms, or since its claim was read. A producer that has claimed
--       the id may be about to store its job, so its alias is left alone and stays listed for the janitor.
-- Post: 'keep':  the alias stays, with the tombstone under it, and its claim is no longer listed.
--       'drop':  the alias is removed, if it still points to the shard that was checked. Otherwise another request has
--                claimed the id since, or a tombstone is there: both stay, and stay listed for the janitor.
--       'later': the janitor checks the alias again after the same time.
-- Memory: allow-oom; adds 100 bytes per alias that stands over a tombstone.
-- KEYS: 1 alias_claims, then per alias the job hash of its id.
-- ARGV: 1 age (ms), then per alias: id, decision, index of the shard that was checked, and its claim: its score in
--       alias_claims, 'none' if it has none, or '' for any claim of that age.
--       decision: 'keep' (the job was seen) | 'drop' (there is no such job, or it is removed now) |
--       'later' (the id has a reservation or a tombstone, or could not be checked)
-- Returns: number of aliases removed
--@include now long_lists remove_alias
local alias_claims, age = KEYS[1], tonumber(ARGV[1])
local removed, settled = 0, {}
for i = 2, #KEYS do
    local id, decision, shard, claim = unpack(ARGV, 4 * i - 6, 4 * i - 3) -- ARGV[2..5] belong to KEYS[2]
    local claimed, may_settle = redis.call('ZSCORE', alias_claims, id), nil
    if claim == '' then may_settle = not claimed or now - claimed >= age
    else may_settle = (claimed or 'none') == claim end
    if may_settle then
        if decision == 'later' then
            redis.call('ZADD', alias_claims, 'XX', now, id)
        else
            local is_settled = true
            if decision == 'keep' then
                redis.call('HDEL', KEYS[i], '@c') -- the claimer must not release the alias any more
            elseif redis.call('HGET', KEYS[i], '@') == shard then
                is_settled, removed = remove_alias(KEYS[i], alias_claims, id), removed + 1
            else
                is_settled = redis.call('EXISTS', KEYS[i]) == 0
            end
            if is_settled then settled[#settled + 1] = id end
        end
    end
end
-- Removals come last: an emptied set is deleted, and its key cannot be touched again (see preflight.lua).
call_in_slices('ZREM', alias_claims, settled)
return removed
