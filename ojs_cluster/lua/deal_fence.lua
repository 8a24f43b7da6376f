-- Somebody waits for a deal that nobody seems to decide: from now on it cannot be.
-- Memory: allow-oom; adds 300 bytes for ten minutes.
-- KEYS: 1 b:, 2 the shard's deals, 3 dealt.  ARGV: 1 deal.
-- Returns: 'decided' | 'dead'
--@include now
if redis.call('HEXISTS', KEYS[1], 'plan') == 1 then return 'decided' end
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return 'decided' end
redis.call('HSET', KEYS[1], 'dead', now)
redis.call('ZADD', KEYS[2], now, ARGV[1])
return 'dead'
