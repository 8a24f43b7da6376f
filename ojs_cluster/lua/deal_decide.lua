-- The moment at which a write over several shards happens: before it nothing of it does, after it
-- all of it will, whoever lives.
-- Pre:  nobody has given the deal up, and it is not too late.
-- Post: the record holds everything there is to do, and doing it is owed.
-- Repeated, it changes nothing.
-- Memory: deny-oom.
-- KEYS: 1 b:, 2 the shard's out, 3 ob, 4 dealt.
-- ARGV: 1 decided too late from this ms on (0 never), 2 deal, 3 plan, then the parts.
-- Returns: {'ok', now} | {'dead'}
--@include keys now deadline effect
if redis.call('EXISTS', KEYS[1]) == 1 then
    if redis.call('HEXISTS', KEYS[1], 'plan') == 1 then return {'ok', now} end
    return {'dead'}
end
if redis.call('ZSCORE', KEYS[4], ARGV[2]) then return {'ok', now} end
if ARGV[1] ~= '0' and now >= tonumber(ARGV[1]) then return {'dead'} end
redis.call('HSET', KEYS[1], 'plan', ARGV[3])
for i = 4, #ARGV do redis.call('HSET', KEYS[1], i - 4, ARGV[i]) end
owe('deal', ARGV[2])
redis.call('HSET', KEYS[1], 'owed', effects[1])
return {'ok', now}
