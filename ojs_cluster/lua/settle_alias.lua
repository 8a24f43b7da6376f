-- An old claim is settled: 'keep' (its job was seen) or 'drop' (there is no such job, or it goes).
-- Pre:  for drop, the alias still points to the shard that was asked.
-- KEYS: 1 job hash of the id, 2 the shard's claims.  ARGV: 1 id, 2 'keep' | 'drop', 3 shard.
-- Returns: 1 when an alias was removed
local removed = 0
if ARGV[2] == 'drop' and redis.call('HGET', KEYS[1], '@') == ARGV[3] then
    removed = redis.call('DEL', KEYS[1])
end
redis.call('ZREM', KEYS[2], ARGV[1])
return removed
