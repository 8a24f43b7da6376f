-- An alias is settled: 'keep' (its job was seen), 'drop' (there is no such job, or it goes), or
-- 'later' (what its id meets there is no job, and will become one or go): the janitor comes back.
-- Pre:  no producer claimed the id during the last `age` ms: one that did may be about to store
--       its job, and the claim's entry leads the janitor back here.
--       For drop, the alias still points to the shard that was asked.
-- KEYS: 1 job hash of the id, 2 the shard's claims.
-- ARGV: 1 id, 2 'keep' | 'drop' | 'later', 3 shard, 4 age.
-- Returns: 1 when an alias was removed
--@include now
local claimed = redis.call('ZSCORE', KEYS[2], ARGV[1])
if claimed and now - claimed < tonumber(ARGV[4]) then return 0 end
if ARGV[2] == 'later' then
    redis.call('ZADD', KEYS[2], 'XX', now, ARGV[1])
    return 0
end
local removed = 0
if ARGV[2] == 'drop' and redis.call('HGET', KEYS[1], '@') == ARGV[3] then
    removed = redis.call('DEL', KEYS[1])
else
    redis.call('HDEL', KEYS[1], '@c') -- nobody is about to give it back any more
end
redis.call('ZREM', KEYS[2], ARGV[1])
return removed
