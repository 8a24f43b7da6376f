-- Outbox entries of one shard wait for another shard that does not answer, apart from the others.
-- Pre:  an entry is still in the index where it was read; what was carried out meanwhile stays out.
-- Post: the entries are in the set of the shard they wait for, and that shard is tried again. When it
--       is known to be away already, the time of that try stays: new entries never put it off.
-- Memory: allow-oom; per entry 100 bytes.
-- KEYS: 1 the index the entries are in (out, or a set of entries that wait), 2 the set of the shard
--       that is away, 3 away.
-- ARGV: 1 index of that shard, 2 ms until it is tried again, then the entries' numbers.
-- Returns: ms of the next try
--@include now long_lists
local moved = {}
for i = 3, #ARGV do
    if redis.call('ZSCORE', KEYS[1], ARGV[i]) then moved[#moved + 1] = ARGV[i] end
end
if #moved > 0 then
    redis.call('ZADD', KEYS[3], 'NX', now + ARGV[2], ARGV[1])
    for _, number in ipairs(moved) do redis.call('ZADD', KEYS[2], now, number) end
    -- Last, and at once: a set that becomes empty vanishes (see look.lua).
    call_in_slices('ZREM', KEYS[1], moved)
end
return now + ARGV[2]
