-- Everything of a transaction is done: neither record nor debt remains.
-- Memory: allow-oom; adds 100 bytes for ten minutes.
-- KEYS: 1 b:, 2 the shard's out, 3 ob, 4 parked, 5 dealt.  ARGV: 1 transaction.
-- Returns: 1 when there was a record
--@include now
local number = redis.call('HGET', KEYS[1], 'owed')
if not number then return 0 end
-- Who repeats the decision because its reply was lost, or waits for it, still finds it made.
redis.call('ZADD', KEYS[5], now, ARGV[1])
redis.call('DEL', KEYS[1])
redis.call('HDEL', KEYS[3], number, 'e' .. number)
redis.call('ZREM', KEYS[2], number)
redis.call('ZREM', KEYS[4], number)
return 1
