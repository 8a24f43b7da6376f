-- Aborts an undecided transaction that another process is waiting for: it cannot be decided any more.
-- Post: of its record only the note of that is left.
-- Memory: allow-oom; adds 300 bytes for ten minutes.
-- KEYS: 1 b:, 2 the shard's transactions, 3 dealt.  ARGV: 1 transaction.
-- Returns: 'decided' | 'dead'
--@include now long_lists
if redis.call('HEXISTS', KEYS[1], 'plan') == 1 then return 'decided' end
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return 'decided' end
local recorded = redis.call('HKEYS', KEYS[1])
redis.call('HSET', KEYS[1], 'dead', now)
redis.call('ZADD', KEYS[2], now, ARGV[1])
for i = #recorded, 1, -1 do
    if recorded[i] == 'dead' then table.remove(recorded, i) end
end
call_in_slices('HDEL', KEYS[1], recorded)
return 'dead'
