-- Transition: committed -> applied, for a cross-shard transaction whose steps are all done.
-- Post: the record and the outbox entry of the transaction are removed.
-- Memory: allow-oom; adds 100 bytes for ten minutes.
-- KEYS: 1 transaction, 2 outbox_due, 3 outbox, 4 outbox_dead_letters, 5 applied_transactions.
-- ARGV: 1 transaction id.
-- Returns: 1 when there was a record, otherwise 0
--@include now
local record, outbox_due, outbox, outbox_dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local applied_transactions, id = KEYS[5], ARGV[1]
local entry = redis.call('HGET', record, 'outbox_entry')
if not entry then return 0 end
-- This note tells transaction_commit.lua and transaction_abort.lua that the transaction was committed.
redis.call('ZADD', applied_transactions, now, id)
redis.call('DEL', record)
redis.call('HDEL', outbox, entry, 'e' .. entry) -- the effect, and the error of its last delivery
redis.call('ZREM', outbox_due, entry)
redis.call('ZREM', outbox_dead_letters, entry)
return 1
