-- Removes old aborted transactions of one shard, and lists old notes of stored portions. The caller asks the
-- owner shards of those transactions whether the notes may be removed (transaction_purge_applied.lua).
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 aborted_transactions, 2 applied_transactions.
-- ARGV: 1 minimum age (ms) of an old entry, 2 maximum number of entries of each kind.
-- Returns: {number of transactions removed, old notes of stored portions}
--@include keys now long_lists
local aborted_transactions, applied_transactions, age, limit = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local old = redis.call('ZRANGEBYSCORE', aborted_transactions, '-inf', now - age, 'LIMIT', 0, limit)
local notes = redis.call('ZRANGEBYSCORE', applied_transactions, '-inf', now - age, 'LIMIT', 0, limit)
-- Preflight: while the slot moves, this stops the script before it has changed anything.
for _, id in ipairs(old) do redis.call('EXISTS', aborted_transactions, transaction_key(id)) end
for _, id in ipairs(old) do redis.call('DEL', transaction_key(id)) end
call_in_slices('ZREM', aborted_transactions, old)
return {#old, notes}
