-- Releases ids that a transaction has reserved and will not use. If the reservation replaced a tombstone, a
-- tombstone is written again.
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 alias_claims, then per id its job hash.  ARGV: 1 transaction id, then the ids.
-- Returns: number of ids released
--@include read_job long_lists
local alias_claims, transaction = KEYS[1], ARGV[1]
local positions = {}
for i = 2, #KEYS do
    if redis.call('HGET', KEYS[i], F.transaction) == transaction then positions[#positions + 1] = i end
end
local freed_ids = {}
for _, i in ipairs(positions) do
    if redis.call('HEXISTS', KEYS[i], F.fixed_id) == 1 then
        redis.call('HSET', KEYS[i], F.tombstone, transaction)
        redis.call('HDEL', KEYS[i], F.transaction, F.fixed_id)
    else
        redis.call('DEL', KEYS[i])
        freed_ids[#freed_ids + 1] = ARGV[i]
    end
end
call_in_slices('ZREM', alias_claims, freed_ids)
return #positions
