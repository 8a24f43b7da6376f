-- Stores a saved search, replaces the one of the same name if the caller allows it, or deletes it.
-- Post: there are at most ARGV[3] saved searches.
-- Memory: allow-oom; adds 10 KiB per search, of which there are at most 100.
-- KEYS: 1 searches.
-- ARGV: 1 name, 2 the search as JSON, '' to delete it, 3 maximum number of searches, 4 '1' to replace a search.
-- Returns: 'new' | 'replaced' | 'known' | 'full'; to delete it: 'deleted' | 'missing'
local searches, name, wanted, maximum = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
if wanted == '' then return redis.call('HDEL', searches, name) == 1 and 'deleted' or 'missing' end
local stored = redis.call('HGET', searches, name)
local is_known = stored ~= false
-- A repetition after a lost reply finds its own search.
if is_known and ARGV[4] ~= '1' and stored ~= wanted then return 'known' end
if not is_known and redis.call('HLEN', searches) >= maximum then return 'full' end
redis.call('HSET', searches, name, wanted)
return is_known and 'replaced' or 'new'
