-- Removes old notes of stored portions, unless their transactions are still to be applied.
-- Pre:  the note was not renewed during the last `age` ms. A process that has renewed a note may store its
--       portion again, so the note stays.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 applied_transactions.
-- ARGV: 1 age (ms), then per note: the note, '1' to keep it or '' to remove it.
-- Returns: number of notes removed
--@include now long_lists
local applied_transactions, age = KEYS[1], ARGV[1]
local old = {}
for i = 2, #ARGV, 2 do
    local note, keep = ARGV[i], ARGV[i + 1]
    local renewed_at = redis.call('ZSCORE', applied_transactions, note)
    if renewed_at and tonumber(renewed_at) <= now - age then
        if keep == '1' then redis.call('ZADD', applied_transactions, now, note)
        else old[#old + 1] = note end
    end
end
call_in_slices('ZREM', applied_transactions, old)
return #old
