-- Removes an alias that a producer has claimed and will not use.
-- Pre:  the producer is the only one that has claimed the id. Field `@c` then has its name (claim_alias.lua).
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 job hash of the id, 2 alias_claims.  ARGV: 1 id, 2 name of the claimer.
-- Returns: 1 when the alias was removed, otherwise 0
local key, alias_claims, id, claimer = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
if redis.call('HGET', key, '@c') ~= claimer then return 0 end
redis.call('DEL', key)
redis.call('ZREM', alias_claims, id)
return 1
