-- Transition: undelivered | dead letter -> (nothing), for delivered outbox entries of one shard.
-- Post: the entries are removed. Running it again changes nothing.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the index of the entries: outbox_due or an outbox_waiting, 2 outbox, 3 outbox_dead_letters.
-- ARGV: 1.. numbers of entries.
-- Returns: 0
--@include long_lists
local fields = {}
for i, number in ipairs(ARGV) do fields[2 * i - 1], fields[2 * i] = number, 'e' .. number end
call_in_slices('HDEL', KEYS[2], fields)
call_in_slices('ZREM', KEYS[1], ARGV)
call_in_slices('ZREM', KEYS[3], ARGV)
return 0
