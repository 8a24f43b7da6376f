-- Removes old entries of applied_transactions. An entry says that this shard has stored a portion of a
-- cross-shard transaction. It stays while the transaction is not applied in every shard.
-- Skips an entry that was renewed during the last `age` ms: the process that renewed it may store the same
-- portion again.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 applied_transactions.
-- ARGV: 1 age (ms), then per entry: the entry, '1' to renew it or '' to remove it.
-- Returns: number of entries removed
--@include now long_lists
local applied_transactions, age = KEYS[1], ARGV[1]
local old = {}
for i = 2, #ARGV, 2 do
    local entry, renew = ARGV[i], ARGV[i + 1]
    local renewed_at = redis.call('ZSCORE', applied_transactions, entry)
    if renewed_at and tonumber(renewed_at) <= now - age then
        if renew == '1' then redis.call('ZADD', applied_transactions, now, entry)
        else old[#old + 1] = entry end
    end
end
call_in_slices('ZREM', applied_transactions, old)
return #old
