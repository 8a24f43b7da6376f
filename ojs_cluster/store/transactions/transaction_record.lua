-- Stores one portion of a cross-shard transaction's record, before the transaction is committed.
-- Pre:  no process has aborted the transaction.
-- Post: the record holds the portion. Until the commit the index of aborted transactions lists it, so
--       `deal_tidy` removes what a dead process has recorded.
-- Repeated, or after the commit, it changes nothing.
-- Memory: deny-oom.
-- KEYS: 1 b:, 2 the shard's transactions, 3 dealt.  ARGV: 1 transaction, 2 position of the portion, 3 portion.
-- Returns: 'ok' | 'dead'
--@include now
if redis.call('HEXISTS', KEYS[1], 'plan') == 1 then return 'ok' end
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return 'ok' end
if redis.call('HEXISTS', KEYS[1], 'dead') == 1 then return 'dead' end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[1])
return 'ok'
