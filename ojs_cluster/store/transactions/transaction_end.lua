-- Transition: committed -> applied, for a cross-shard transaction whose steps are all done.
-- Post: its record and its outbox entry are removed.
-- Memory: allow-oom; adds 100 bytes for ten minutes.
-- KEYS: 1 transaction, 2 outbox_due, 3 outbox, 4 outbox_dead_letters, 5 applied_transactions.
-- ARGV: 1 transaction id.
-- Returns: 1 when there was a record
--@include now
local record, outbox_due, outbox, outbox_dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local applied_transactions, id = KEYS[5], ARGV[1]
local number = redis.call('HGET', record, 'outbox_entry')
if not number then return 0 end
-- A commit that is repeated after a lost reply, and an abort, still find it committed.
redis.call('ZADD', applied_transactions, now, id)
redis.call('DEL', record)
redis.call('HDEL', outbox, number, 'e' .. number)
redis.call('ZREM', outbox_due, number)
redis.call('ZREM', outbox_dead_letters, number)
return 1
