-- Transition: (uncommitted) -> committed, for a cross-shard transaction. From now on it will be applied.
-- Pre:  no process has aborted the transaction, and the time limit of the commit has not passed.
-- Post: the record holds everything that is to be written, and the outbox has an entry for the transaction.
-- Repeated, it changes nothing.
-- Memory: deny-oom.
-- KEYS: 1 transaction, 2 outbox_due, 3 outbox, 4 applied_transactions, 5 aborted_transactions.
-- ARGV: 1 time (ms) before which the commit must happen (0 no limit), 2 transaction id, 3 plan, 4 number of
--       portions that transaction_record.lua has stored, then the portions that it has not stored.
-- Returns: {'ok', now} | {'aborted'}
--@include keys now set_deadline append_effect
local record, applied_transactions, aborted_transactions = KEYS[1], KEYS[4], KEYS[5]
local commit_before, id, plan, stored_portions = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('HEXISTS', record, 'plan') == 1 then return {'ok', now} end
if redis.call('HEXISTS', record, 'aborted') == 1 then return {'aborted'} end
if redis.call('ZSCORE', applied_transactions, id) then return {'ok', now} end
if commit_before ~= '0' and now >= tonumber(commit_before) then return {'aborted'} end
-- Without all portions the transaction cannot be applied: a failover or the janitor has removed some.
if redis.call('HLEN', record) ~= stored_portions then return {'aborted'} end
redis.call('HSET', record, 'plan', plan)
-- The field of a portion is its position, counted from 0. ARGV[5] is the first portion of this call.
for i = 5, #ARGV do redis.call('HSET', record, stored_portions + i - 5, ARGV[i]) end
append_effect('transaction', id)
redis.call('HSET', record, 'outbox_entry', effects[1])
-- transaction_record.lua has added the id, so that the janitor would remove an uncommitted record.
if stored_portions > 0 then redis.call('ZREM', aborted_transactions, id) end
return {'ok', now}
