-- Removes old aborted transactions of one shard, and returns old entries of applied_transactions. An entry says
-- that this shard has stored a portion of a transaction. The caller reads from the transaction's owner shard
-- whether it may remove the entry (transaction_purge_applied.lua).
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 aborted_transactions, 2 applied_transactions.
-- ARGV: 1 minimum age (ms) of an old entry, 2 maximum number of entries of each key.
-- Returns: {number of transactions removed, old entries of applied_transactions}
--@include keys now long_lists
local aborted_transactions, applied_transactions, age, limit = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local old = redis.call('ZRANGEBYSCORE', aborted_transactions, '-inf', now - age, 'LIMIT', 0, limit)
local applied = redis.call('ZRANGEBYSCORE', applied_transactions, '-inf', now - age, 'LIMIT', 0, limit)
-- Preflight: while the slot moves, this stops the script before it has changed anything.
for _, id in ipairs(old) do redis.call('EXISTS', aborted_transactions, transaction_key(id)) end
for _, id in ipairs(old) do redis.call('DEL', transaction_key(id)) end
call_in_slices('ZREM', aborted_transactions, old)
return {#old, applied}
