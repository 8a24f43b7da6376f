-- Transition: older -> newer, for a shard's copy of the layout, or for the record when the meta tag has lost it.
-- Post: the copy exists, and none of its numbers is smaller than before or than given.
-- Memory: allow-oom; adds 100 bytes once.
-- KEYS: 1 schema.
-- ARGV: 1 version, 2 number of shards, 3 oldest layout in the data, 4 stamp of the tag (operations/losses.py), or 0,
--       5 the loss to record with a new stamp, '' for none.
-- Returns: 1 if the copy has changed, else 0
local schema, version, shards, oldest, stamp = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local stored = redis.call('HMGET', schema, 'version', 'shards', 'oldest', 'stamp')
local stored_version, stored_oldest = tonumber(stored[1] or 0), tonumber(stored[3] or 0)
local is_new = stored_version >= tonumber(version) and stored_oldest >= tonumber(oldest)
local is_stamped = tonumber(stored[4] or 0) >= stamp
if is_new and is_stamped then return 0 end
redis.call('HSET', schema, 'shards', shards,
    'version', math.max(stored_version, tonumber(version)), 'oldest', math.max(stored_oldest, tonumber(oldest)))
if not is_stamped then redis.call('HSET', schema, 'stamp', stamp) end
if not is_stamped and ARGV[5] ~= '' then redis.call('HSET', schema, 'loss', ARGV[5]) end
return 1
