-- A transaction reserves the ids that clients chose, in the shard where their jobs will live: all or none.
-- Pre:  nothing has any of the ids here, save fences whose marks are given.
-- Post: no other job can be stored under them until the transaction is carried out or dropped. An alias
--       that leads to its own shard stands for the job; it is listed as a claim for the janitor.
-- Memory: deny-oom.
-- KEYS: 1 the shard's claims, then per id its job hash.
-- ARGV: 1 transaction, 2 this shard, 3 marks of fences that do not count, each between blanks, then the ids.
-- Returns: {'ok', now} | {'exists', position (1-based), fields of what is there (see there.lua)}
--@include now read_job read_existing
for i = 2, #KEYS do
    local transaction, mark = unpack(redis.call('HMGET', KEYS[i], F.transaction, F.tombstone))
    local open = mark and string.find(ARGV[3], ' ' .. mark .. ' ', 1, true)
    if transaction ~= ARGV[1] and not open and redis.call('EXISTS', KEYS[i]) == 1 then
        return {'exists', i - 1, read_existing(KEYS[i])}
    end
end
for i = 2, #KEYS do
    -- A repetition that comes late may find its job prepared already.
    if redis.call('HEXISTS', KEYS[i], F.state) == 0 then
        redis.call('HSET', KEYS[i], F.alias, ARGV[2], F.transaction, ARGV[1])
        -- See enqueue.lua: its job keeps out whoever the fence did, and stays long enough for that.
        if redis.call('HDEL', KEYS[i], F.tombstone) == 1 then redis.call('HSET', KEYS[i], F.fixed, 1) end
        redis.call('ZADD', KEYS[1], now, ARGV[i + 2])
    end
end
return {'ok', now}
