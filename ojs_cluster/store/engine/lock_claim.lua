-- Transition: free | held -> held, for unique locks of one shard, in the order given.
-- Pre:  each lock is free, or the holder that the caller has checked (`expected`) holds it, and no
--       transaction is undecided about it.
-- Post: the job holds the lock. The previous holder is remembered when it may get the lock back.
-- If another job holds a lock, the locks before that lock stay claimed, and the caller claims the rest later.
-- A repetition by the holder renews the claim. Two producers may claim a lock for the same job id. Then neither
-- of them may drop the lock. So the name of the second claim gets the suffix '+', and matches neither producer.
-- Fields of a lock: holder (job id), shard (index of the holder's shard), claimed_at (ms), claim (name of the
-- last claim), retries (how often the holder had been retried by hand, absent for 0), transaction (id of the
-- undecided transaction that claimed the lock). The fields previous_holder, previous_shard and so on describe
-- the previous holder.
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
for i = 1, #KEYS - 1 do -- the arguments of lock i begin at ARGV[7 * i - 3]
    local _, job, _, retries, expected, expected_retries = unpack(ARGV, 7 * i - 3, 7 * i + 2)
    local field_list, lock = redis.call('HGETALL', KEYS[i + 1]), {}
    for j = 1, #field_list, 2 do lock[field_list[j]] = field_list[j + 1] end
    lock.retries = lock.retries or '0'
    lock.is_own = lock.holder == job and lock.retries == retries and (lock.transaction or '') == transaction
    local is_expected = lock.holder == expected and lock.retries == expected_retries
    if not lock.is_own and lock.holder and (lock.transaction or not is_expected) then
        reply = {'held', i, now, field_list}
        break
    end
    locks[i] = lock
end
for i, lock in ipairs(locks) do
    local key = KEYS[i + 1]
    local fingerprint, job, shard, retries, _, _, remember = unpack(ARGV, 7 * i - 3, 7 * i + 3)
    if lock.is_own then
        -- The name changes, so that a caller that has read the earlier claim does not drop this claim.
        redis.call('HSET', key, 'claimed_at', now, 'claim', lock.claim == name and name or name .. '+')
    else
        -- New fields are written before old ones are removed, so the hash never becomes empty.
        redis.call('HSET', key, 'holder', job, 'shard', shard, 'claimed_at', now, 'claim', name)
        if retries ~= '0' then redis.call('HSET', key, 'retries', retries)
        else redis.call('HDEL', key, 'retries') end
        if lock.holder and remember == '1' then
            redis.call('HSET', key, 'previous_holder', lock.holder, 'previous_shard', lock.shard,
                'previous_claimed_at', lock.claimed_at, 'previous_claim', lock.claim or '',
                'previous_retries', lock.retries)
        else
            redis.call('HDEL', key, 'previous_holder', 'previous_shard', 'previous_claimed_at',
                'previous_claim', 'previous_retries')
        end
        if transaction ~= '' then redis.call('HSET', key, 'transaction', transaction)
        else redis.call('HDEL', key, 'transaction') end
        redis.call('ZADD', index, now + check_ms, fingerprint)
    end
end
return reply
