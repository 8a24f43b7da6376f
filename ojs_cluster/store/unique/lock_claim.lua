-- Transition: free | held -> held, for unique locks of one shard, in the order given.
-- Pre:  each lock is free, or the holder that the caller has checked (`expected`) holds it, and no
--       transaction is undecided about it.
-- Post: the job holds the lock. The previous holder is remembered when it may get the lock back.
-- If another job holds a lock, the locks before that lock stay claimed, and the caller claims the rest later.
-- A repetition by the holder renews the claim. If another producer with the same job id has claimed the lock
-- before, neither producer may drop the lock, so the name of the new claim ends with '+'.
-- Fields of a lock: h id of the holder, s index of the holder's shard, a time of the claim (ms), c name of the
-- last claim, n how often the holder had been retried by hand (absent for 0), t transaction that is undecided
-- about the holder; p, ps, pa, pc, pn the fields h, s, a, c, n of the previous holder.
-- A job that was retried by hand counts as another holder: id and number of retries together name a holder.
-- Memory: deny-oom.
-- KEYS: 1 locks, then per lock its hash.
-- ARGV: 1 transaction id ('' none), 2 time until the janitor checks the lock (ms), 3 name of this claim, then
--       per lock: fingerprint, job id, index of the job's shard, retries of the job, id of the expected holder
--       ('' none), retries of the expected holder, '1' to remember the expected holder or ''.
-- Returns: {'ok', now} | {'held', position (1-based), now, fields of the lock}
--@include now
local index, transaction, check_ms, name = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local reply, locks = {'ok', now}, {}
for i = 1, #KEYS - 1 do
    local _, job, _, retries, expected, expected_retries = unpack(ARGV, 7 * i - 3, 7 * i + 2)
    local field_list, lock = redis.call('HGETALL', KEYS[i + 1]), {}
    for j = 1, #field_list, 2 do lock[field_list[j]] = field_list[j + 1] end
    lock.n = lock.n or '0'
    lock.mine = lock.h == job and lock.n == retries and (lock.t or '') == transaction
    local is_expected = lock.h == expected and lock.n == expected_retries
    if not lock.mine and lock.h and (lock.t or not is_expected) then
        reply = {'held', i, now, field_list}
        break
    end
    locks[i] = lock
end
for i, lock in ipairs(locks) do
    local key = KEYS[i + 1]
    local fingerprint, job, shard, retries, _, _, remember = unpack(ARGV, 7 * i - 3, 7 * i + 3)
    if lock.mine then
        -- A caller that has read the earlier claim must not take this one for it.
        redis.call('HSET', key, 'a', now, 'c', lock.c == name and name or name .. '+')
    else
        -- New fields are written before old ones are removed, so the hash never becomes empty.
        redis.call('HSET', key, 'h', job, 's', shard, 'a', now, 'c', name)
        if retries ~= '0' then redis.call('HSET', key, 'n', retries) else redis.call('HDEL', key, 'n') end
        if lock.h and remember == '1' then
            redis.call('HSET', key, 'p', lock.h, 'ps', lock.s, 'pa', lock.a, 'pc', lock.c or '', 'pn', lock.n)
        else
            redis.call('HDEL', key, 'p', 'ps', 'pa', 'pc', 'pn')
        end
        if transaction ~= '' then redis.call('HSET', key, 't', transaction)
        else redis.call('HDEL', key, 't') end
        redis.call('ZADD', index, now + check_ms, fingerprint)
    end
end
return reply
