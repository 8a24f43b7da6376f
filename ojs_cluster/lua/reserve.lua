-- A deal reserves the ids that clients chose, in the shard where their jobs will live: all or none.
-- Pre:  nothing has any of the ids here.
-- Post: no other job can be stored under them until the deal is carried out or dropped. An alias
--       that leads to its own shard stands for the job; it is listed as a claim for the janitor.
-- KEYS: 1 the shard's claims, then per id its job hash.  ARGV: 1 deal, 2 this shard, then the ids.
-- Returns: {'ok', now} | {'exists', position (1-based), what is there}
--@include now job
for i = 2, #KEYS do
    local flat = redis.call('HGETALL', KEYS[i])
    if #flat > 0 and redis.call('HGET', KEYS[i], F.deal) ~= ARGV[1] then
        return {'exists', i - 1, flat}
    end
end
for i = 2, #KEYS do
    -- A repetition that comes late may find its job staged already.
    if redis.call('HEXISTS', KEYS[i], F.state) == 0 then
        redis.call('HSET', KEYS[i], F.alias, ARGV[2], F.deal, ARGV[1])
        redis.call('ZADD', KEYS[1], now, ARGV[i + 1])
    end
end
return {'ok', now}
