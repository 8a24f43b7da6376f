-- A transaction that will not be carried out, or has not used them, gives its reserved ids back; those that
-- were fenced before are so again.
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 the shard's claims, then per id its job hash.  ARGV: 1 transaction, then the ids.
-- Returns: ids given back
--@include read_job long_lists
local mine = {}
for i = 2, #KEYS do
    if redis.call('HGET', KEYS[i], F.transaction) == ARGV[1] then mine[#mine + 1] = i end
end
local given_back = {}
for _, i in ipairs(mine) do
    if redis.call('HEXISTS', KEYS[i], F.fixed) == 1 then
        redis.call('HSET', KEYS[i], F.tombstone, ARGV[1])
        redis.call('HDEL', KEYS[i], F.transaction, F.fixed)
    else
        redis.call('DEL', KEYS[i])
        given_back[#given_back + 1] = ARGV[i]
    end
end
call_in_slices('ZREM', KEYS[1], given_back)
return #mine
