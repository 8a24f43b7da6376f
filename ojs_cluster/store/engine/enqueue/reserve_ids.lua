-- Reserves client-chosen ids for a transaction, in the shard where their jobs will live: all ids or none.
-- Pre:  nothing is stored under any of the ids, except tombstones that the caller may replace.
-- Post: no other job can be stored under the ids until the transaction is applied or aborted. A reservation
--       is an alias that points to its own shard, and alias_claims lists it for the janitor.
-- Memory: deny-oom.
-- KEYS: 1 alias_claims, then per id its job hash.
-- ARGV: 1 transaction id, 2 index of this shard, 3 tombstone tokens of the caller, each between blanks: it
--       may replace a tombstone with one of them, then the ids.
-- Returns: {'ok', now} | {'exists', position of the id (1-based), fields as returned by read_existing.lua}
--@include now read_job read_existing
local alias_claims, transaction, shard, tokens = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
for i = 2, #KEYS do
    local reserved_by, token = unpack(redis.call('HMGET', KEYS[i], F.transaction, F.tombstone))
    local replaceable = token and string.find(tokens, ' ' .. token .. ' ', 1, true)
    if reserved_by ~= transaction and not replaceable and redis.call('EXISTS', KEYS[i]) == 1 then
        return {'exists', i - 1, read_existing(KEYS[i])}
    end
end
for i = 2, #KEYS do
    -- A late repetition may find that the transaction has already stored the job: it changes nothing.
    if redis.call('HEXISTS', KEYS[i], F.state) == 0 then
        redis.call('HSET', KEYS[i], F.alias, shard, F.transaction, transaction)
        -- The new job must keep the stalled producer out, as the tombstone did. The field fixed_id keeps the
        -- job for at least two minutes after its end (removal_time.lua).
        if redis.call('HDEL', KEYS[i], F.tombstone) == 1 then redis.call('HSET', KEYS[i], F.fixed_id, 1) end
        redis.call('ZADD', alias_claims, now, ARGV[i + 2]) -- ARGV[4] is the id of KEYS[2]
    end
end
return {'ok', now}
