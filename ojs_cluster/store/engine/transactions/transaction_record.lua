-- Stores one portion of a cross-shard transaction's record, before the transaction is committed.
-- Pre:  no process has aborted the transaction.
-- Post: the record holds the portion. Until the commit the index of aborted transactions lists the
--       transaction, so transaction_purge_aborted.lua removes the record if the process dies.
-- Repeated, or after the commit, it changes nothing.
-- Memory: deny-oom.
-- KEYS: 1 transaction, 2 aborted_transactions, 3 applied_transactions.
-- ARGV: 1 transaction id, 2 position of the portion (from 0), 3 portion.
-- Returns: 'ok' | 'aborted'
--@include now
local record, aborted_transactions, applied_transactions = KEYS[1], KEYS[2], KEYS[3]
local id, position, portion = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HEXISTS', record, 'plan') == 1 then return 'ok' end
if redis.call('ZSCORE', applied_transactions, id) then return 'ok' end
if redis.call('HEXISTS', record, 'aborted') == 1 then return 'aborted' end
redis.call('HSET', record, position, portion)
redis.call('ZADD', aborted_transactions, now, id)
return 'ok'
