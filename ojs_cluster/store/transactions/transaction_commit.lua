-- The moment at which a write over several shards happens: before it nothing of it does, after it
-- all of it will, whoever lives.
-- Pre:  nobody has given the transaction up, and it is not too late.
-- Post: the record holds everything there is to do, and doing it is owed.
-- Repeated, it changes nothing.
-- Memory: deny-oom.
-- KEYS: 1 b:, 2 the shard's out, 3 ob, 4 dealt, 5 transactions.
-- ARGV: 1 decided too late from this ms on (0 never), 2 transaction, 3 plan, 4 portions that
--       `transaction_record` has stored, then the other portions.
-- Returns: {'ok', now} | {'dead'}
--@include keys now set_deadline append_effect
if redis.call('HEXISTS', KEYS[1], 'plan') == 1 then return {'ok', now} end
if redis.call('HEXISTS', KEYS[1], 'dead') == 1 then return {'dead'} end
if redis.call('ZSCORE', KEYS[4], ARGV[2]) then return {'ok', now} end
if ARGV[1] ~= '0' and now >= tonumber(ARGV[1]) then return {'dead'} end
local recorded = tonumber(ARGV[4])
-- A master may have forgotten some in a failover, or the janitor has removed them.
if redis.call('HLEN', KEYS[1]) ~= recorded then return {'dead'} end
redis.call('HSET', KEYS[1], 'plan', ARGV[3])
for i = 5, #ARGV do redis.call('HSET', KEYS[1], recorded + i - 5, ARGV[i]) end
append_effect('transaction', ARGV[2])
redis.call('HSET', KEYS[1], 'owed', effects[1])
if recorded > 0 then redis.call('ZREM', KEYS[5], ARGV[2]) end
return {'ok', now}
