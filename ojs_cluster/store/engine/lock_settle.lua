-- Transition: held -> held | free, for unique locks of one shard that the named jobs still hold.
-- Pre:  if the name of a claim is given, the lock was not claimed again after that claim.
-- Post: 'keep':   the transaction was applied. The holder is certain, the previous holder is forgotten.
--       'drop':   the job will not be stored. The previous holder gets the lock back, or the lock is free.
--                 If the lock does not exist (job id ''), its fingerprint is removed from the index.
--       'unlock': the job has ended. The lock is released as by 'drop', even while a transaction is undecided
--                 about it. A job that was retried by hand after that end keeps the lock.
--       'later':  the janitor checks the lock again when the lock is twice as old as now.
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 locks, then per lock its hash.
-- ARGV: 1 'keep' | 'drop' | 'unlock' | 'later', 2 transaction id ('' none), 3 minimum time until the janitor's
--       next check (ms), then per lock: fingerprint, job id, retries of the job, name of the claim ('' any).
-- Returns: number of locks that the named jobs hold
--@include now long_lists
local index, action, transaction, check_ms, found = KEYS[1], ARGV[1], ARGV[2], ARGV[3], {}
for i = 1, #KEYS - 1 do
    local lock = redis.call('HMGET', KEYS[i + 1], 'holder', 'transaction', 'previous_holder', 'previous_shard',
        'previous_claimed_at', 'claimed_at', 'retries', 'previous_retries', 'claim', 'previous_claim')
    local fingerprint, job, retries, claim = unpack(ARGV, 4 * i, 3 + 4 * i)
    local holder, undecided, held_retries, last_claim = lock[1] or '', lock[2] or '', lock[7] or '0', lock[9]
    local matches = undecided == transaction
    if action == 'unlock' then matches = held_retries == retries end
    if holder == job and matches and (claim == '' or last_claim == claim) then
        found[#found + 1] = {KEYS[i + 1], fingerprint, lock}
    end
end
local freed = {}
local FORMER_FIELDS = {'transaction', 'previous_holder', 'previous_shard', 'previous_claimed_at',
    'previous_claim', 'previous_retries'}
for _, entry in ipairs(found) do
    local key, fingerprint, lock = entry[1], entry[2], entry[3]
    local claimed_at = lock[6]
    local previous, shard, previous_claimed_at, retries, claim = lock[3], lock[4], lock[5], lock[8], lock[10]
    if action == 'later' then
        redis.call('ZADD', index, now + math.max(check_ms, now - claimed_at), fingerprint)
    elseif action == 'keep' then
        redis.call('HDEL', key, unpack(FORMER_FIELDS))
    elseif previous then
        redis.call('HSET', key, 'holder', previous, 'shard', shard, 'claimed_at', previous_claimed_at,
            'claim', claim or '')
        if (retries or '0') ~= '0' then redis.call('HSET', key, 'retries', retries)
        else redis.call('HDEL', key, 'retries') end
        redis.call('HDEL', key, unpack(FORMER_FIELDS))
    else
        redis.call('DEL', key)
        freed[#freed + 1] = fingerprint
    end
end
call_in_slices('ZREM', index, freed)
return #found
