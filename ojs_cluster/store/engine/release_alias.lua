-- Removes an alias that a producer has claimed and will not use.
-- Pre:  the producer is the only one that has claimed the id. Field `@c` then has its name (claim_alias.lua).
-- Memory: allow-oom; adds 100 bytes, where the alias stands over a tombstone.
-- KEYS: 1 job hash of the id, 2 alias_claims.  ARGV: 1 id, 2 name of the claimer.
-- Returns: 1 when the alias was removed, otherwise 0
--@include now remove_alias
local key, alias_claims, id, claimer = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
if redis.call('HGET', key, '@c') ~= claimer then return 0 end
if remove_alias(key, alias_claims, id) then redis.call('ZREM', alias_claims, id) end
return 1
