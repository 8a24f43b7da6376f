-- Whoever claimed an alias will not store its job, and gives it back.
-- Pre:  it claimed the id first, and nobody after it: another may be about to store a job under it.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 job hash of the id, 2 the shard's claims.  ARGV: 1 id, 2 name of who claimed it.
-- Returns: 1 when the alias was removed
if redis.call('HGET', KEYS[1], '@c') ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
