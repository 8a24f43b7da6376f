-- Transition: (uncommitted) -> committed, for a cross-shard transaction. Its write happens at this moment.
-- Pre:  no process has aborted the transaction, and it is not too late.
-- Post: the record holds everything there is to do, and the outbox has an entry for it.
-- Repeated, it changes nothing.
-- Memory: deny-oom.
-- KEYS: 1 transaction, 2 outbox_due, 3 outbox, 4 applied_transactions, 5 aborted_transactions.
-- ARGV: 1 time (ms) from which on it is too late (0 never), 2 transaction id, 3 plan, 4 number of portions
--       that `transaction_record` has stored, then the other portions.
-- Returns: {'ok', now} | {'aborted'}
--@include keys now set_deadline append_effect
local record, applied_transactions, aborted_transactions = KEYS[1], KEYS[4], KEYS[5]
local commit_before, id, plan, stored = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('HEXISTS', record, 'plan') == 1 then return {'ok', now} end
if redis.call('HEXISTS', record, 'aborted') == 1 then return {'aborted'} end
if redis.call('ZSCORE', applied_transactions, id) then return {'ok', now} end
if commit_before ~= '0' and now >= tonumber(commit_before) then return {'aborted'} end
-- A failover may have lost stored portions, or the janitor has removed them.
if redis.call('HLEN', record) ~= stored then return {'aborted'} end
redis.call('HSET', record, 'plan', plan)
for i = 5, #ARGV do redis.call('HSET', record, stored + i - 5, ARGV[i]) end
append_effect('transaction', id)
redis.call('HSET', record, 'outbox_entry', effects[1])
if stored > 0 then redis.call('ZREM', aborted_transactions, id) end
return {'ok', now}
