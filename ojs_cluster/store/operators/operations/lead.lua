-- Acquire, renew or release the leader lock of one shard, or of the meta tag, within a scheduler group.
-- 'acquire': the lock is free -> held by this identity, with a fencing token larger than all earlier tokens.
--            A candidate that is not preferred gets the lock only if it insists.
-- 'renew':   held by this identity and token -> its TTL starts again.
-- 'release': held by this identity and token -> free.
-- 'leave':   held by this identity -> free; the identity is no longer a candidate.
-- Post: acquire and renew record the identity as a candidate for twice the TTL. In the order of their names,
--       candidate number (shard modulo number of candidates) is the preferred one. So each candidate is
--       preferred for about the same number of shards. A release is announced on the schedule channel.
-- Memory: allow-oom; adds 300 bytes per scheduler group, and 120 per candidate.
-- KEYS: 1 leader, 2 fencing_counter, 3 candidates (scored by the ms of their last call).
-- ARGV: 1 'acquire' | 'renew' | 'release' | 'leave', 2 identity, 3 token (0 for acquire and leave),
--       4 TTL (ms), 5 index of the shard, 6 'insist' | ''.
-- Returns: {token when this identity holds or has released the lock, otherwise 0;
--          time until the lock ends (ms), 0 when it is free;
--          1 when another candidate is preferred and its last call is at most TTL / 2 ago, otherwise 0}
--          A holder that repeats acquire after a lost reply gets the token that it already has.
--@include keys now
local MAX_CANDIDATES = 64
local lock_key, counter_key, candidates_key = KEYS[1], KEYS[2], KEYS[3]
local action, identity, token_held, ttl, shard = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local insists = ARGV[6] == 'insist'
local lock = redis.call('GET', lock_key)
local holder, token
if lock then holder, token = string.match(lock, '^(.*) (%d+)$') end
if action == 'release' or action == 'leave' then
    if action == 'leave' then redis.call('ZREM', candidates_key, identity) end
    if holder ~= identity or (token_held ~= '0' and token ~= token_held) then return {0, 0, 0} end
    redis.call('DEL', lock_key)
    redis.call('SPUBLISH', SCHEDULE_CHANNEL, 'free')
    return {tonumber(token), 0, 0}
end

redis.call('ZADD', candidates_key, now, identity)
redis.call('ZREMRANGEBYSCORE', candidates_key, '-inf', now - 2 * ttl)
redis.call('ZREMRANGEBYRANK', candidates_key, 0, -MAX_CANDIDATES - 1)
redis.call('PEXPIRE', candidates_key, 2 * ttl)
local candidates = redis.call('ZRANGE', candidates_key, 0, -1)
table.sort(candidates)
local preferred = candidates[shard % #candidates + 1]
local other_preferred = 0
if preferred ~= identity and now - redis.call('ZSCORE', candidates_key, preferred) <= ttl / 2 then
    other_preferred = 1
end

if action == 'renew' then
    if holder ~= identity or token ~= token_held then return {0, 0, other_preferred} end
    redis.call('PEXPIRE', lock_key, ttl)
    return {tonumber(token), ttl, other_preferred}
end
if lock and holder ~= identity then return {0, redis.call('PTTL', lock_key), other_preferred} end
if not lock and preferred ~= identity and not insists then return {0, 0, other_preferred} end
token = token or redis.call('INCR', counter_key)
redis.call('SET', lock_key, identity .. ' ' .. token, 'PX', ttl)
return {tonumber(token), ttl, other_preferred}
