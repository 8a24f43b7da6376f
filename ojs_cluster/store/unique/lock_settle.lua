-- What becomes of unique locks of one shard, where the job named still holds them.
-- 'keep':   the transaction was carried out: the holder is certain, the one before is forgotten.
-- 'drop':   the job was not and will not be stored: the lock is the one before's, or free. Of a lock
--           that is gone ('' for its job) the name goes.
-- 'unlock': the job has ended: likewise, whatever transaction has not yet noted that it was stored. Not one
--           that it holds because it was retried by hand after that end.
-- With the name of a claim, only a lock that has not been claimed again since, also by the same job.
-- 'later':  the janitor looks again when the lock is twice as old as now.
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 the shard's locks, then per lock u:.
-- ARGV: 1 'keep' | 'drop' | 'unlock' | 'later', 2 transaction ('' none), 3 least ms until the janitor looks,
--       then per lock: fingerprint, job id, how often that had been retried, name of the claim ('' any).
-- Returns: how many locks were found as said
--@include now long_lists
local how, transaction, found = ARGV[1], ARGV[2], {}
for i = 1, #KEYS - 1 do
    local lock = redis.call('HMGET', KEYS[i + 1], 'h', 't', 'p', 'ps', 'pa', 'a', 'n', 'pn', 'c', 'pc')
    local fingerprint, job, retries, claim = unpack(ARGV, 4 * i, 3 + 4 * i)
    local meant = lock[2] or ''
    if how == 'unlock' then meant = (lock[7] or '0') == retries and transaction end
    if (lock[1] or '') == job and meant == transaction and (claim == '' or lock[9] == claim) then
        found[#found + 1] = {KEYS[i + 1], fingerprint, lock}
    end
end
local freed = {}
for _, entry in ipairs(found) do
    local key, fingerprint, lock = entry[1], entry[2], entry[3]
    if how == 'later' then
        redis.call('ZADD', KEYS[1], now + math.max(ARGV[3], now - lock[6]), fingerprint)
    elseif how == 'keep' then
        redis.call('HDEL', key, 't', 'p', 'ps', 'pa', 'pc', 'pn')
    elseif lock[3] then
        redis.call('HSET', key, 'h', lock[3], 's', lock[4], 'a', lock[5], 'c', lock[10] or '')
        if (lock[8] or '0') ~= '0' then redis.call('HSET', key, 'n', lock[8])
        else redis.call('HDEL', key, 'n') end
        redis.call('HDEL', key, 't', 'p', 'ps', 'pa', 'pc', 'pn')
    else
        redis.call('DEL', key)
        freed[#freed + 1] = fingerprint
    end
end
call_in_slices('ZREM', KEYS[1], freed)
return #found
