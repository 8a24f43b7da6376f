-- A job claims the unique locks of its fingerprints, all in one shard, in the order given.
-- Pre:  a lock is free, or held by the job that the caller has looked at and that is not in the way
--       (`expected`), and no transaction is undecided about it.
-- Post: the job holds it. What it held before is remembered when it may still count.
-- Up to the first lock that is held otherwise, the claims stand: who goes on claims the rest.
-- Repeated by the job that holds the lock, it is a claim of now. Two claims for one job may be those of
-- two producers with its id: none of both may drop the lock then ('+' after the name of the last claim).
-- Lock fields: h, s, a holder's id, shard, ms of the claim, c name of the last claim, n how often that
-- job had been retried by hand (absent for 0); p, ps, pa, pc, pn the same of the holder before; t the transaction
-- that is undecided about h. A job that is retried is another holder than it was before.
-- Memory: deny-oom.
-- KEYS: 1 the shard's locks, then per lock u:.
-- ARGV: 1 transaction ('' none), 2 ms until the janitor looks, 3 name of this claim, then per lock:
--       fingerprint, job id, its shard, its retries, expected holder ('' none), its retries, '1' to
--       remember that one.
-- Returns: {'ok', now} | {'held', position (1-based), now, fields of the lock}
--@include now
local transaction, name, reply = ARGV[1], ARGV[3], {'ok', now}
local locks = {}
for i = 1, #KEYS - 1 do
    local at = 3 + 7 * (i - 1)
    local flat = redis.call('HGETALL', KEYS[i + 1])
    local lock = {}
    for j = 1, #flat, 2 do lock[flat[j]] = flat[j + 1] end
    lock.n = lock.n or '0'
    lock.mine = lock.h == ARGV[at + 2] and lock.n == ARGV[at + 4] and (lock.t or '') == transaction
    local looked_at = lock.h == ARGV[at + 5] and lock.n == ARGV[at + 6]
    if not lock.mine and lock.h and (lock.t or not looked_at) then
        reply = {'held', i, now, flat}
        break
    end
    locks[i] = lock
end
for i, lock in ipairs(locks) do
    local at, key = 3 + 7 * (i - 1), KEYS[i + 1]
    if lock.mine then
        -- Who has looked at the claim before must not take this one for it.
        redis.call('HSET', key, 'a', now, 'c', lock.c == name and name or name .. '+')
    else
        -- Written over before what is stale goes: a key must not be emptied in between (look.lua).
        redis.call('HSET', key, 'h', ARGV[at + 2], 's', ARGV[at + 3], 'a', now, 'c', name)
        if ARGV[at + 4] ~= '0' then redis.call('HSET', key, 'n', ARGV[at + 4])
        else redis.call('HDEL', key, 'n') end
        if lock.h and ARGV[at + 7] == '1' then
            redis.call('HSET', key, 'p', lock.h, 'ps', lock.s, 'pa', lock.a, 'pc', lock.c or '', 'pn', lock.n)
        else
            redis.call('HDEL', key, 'p', 'ps', 'pa', 'pc', 'pn')
        end
        if transaction ~= '' then redis.call('HSET', key, 't', transaction) else redis.call('HDEL', key, 't') end
        redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[at + 1])
    end
end
return reply
