-- Leadership of one shard, or of the meta tag, within a scheduler group.
-- 'acquire': the lock is free -> held by this identity, with a fencing token larger than all before.
--            Only the preferred candidate, unless it insists.
-- 'renew':   held by this identity and token -> its time starts again.
-- 'release': held by this identity and token -> free. 'leave': likewise, and no candidate any more.
-- Post: acquire and renew note the identity as a candidate, for two lives of the lock. The preferred
--       one is number (shard modulo how many there are) in the order of their names, so candidates
--       that see the same ones share the shards evenly. A lock that was freed is announced.
-- Memory: allow-oom; adds 300 bytes per scheduler group, and 120 per candidate.
-- KEYS: 1 lock, 2 fencing counter, 3 candidates by the ms of their last call.
-- ARGV: 1 'acquire' | 'renew' | 'release' | 'leave', 2 identity, 3 token (0 for acquire), 4 ttl ms,
--       5 number of the shard, 6 'insist' | ''.
-- Returns: {token when it holds afterwards (or was released), 0 when not; ms until the lock ends, 0 when
--          it is free; 1 when another candidate is preferred and has called lately}
--          (acquire repeated by the holder, after a lost reply, gives the token it already has)
--@include keys now
local MOST_CANDIDATES = 64
local action, me, ttl = ARGV[1], ARGV[2], tonumber(ARGV[4])
local held = redis.call('GET', KEYS[1])
local holder, token
if held then holder, token = string.match(held, '^(.*) (%d+)$') end
if action == 'release' or action == 'leave' then
    if action == 'leave' then redis.call('ZREM', KEYS[3], me) end
    if holder ~= me or (ARGV[3] ~= '0' and token ~= ARGV[3]) then return {0, 0, 0} end
    redis.call('DEL', KEYS[1])
    redis.call('SPUBLISH', SCHEDULE_CHANNEL, 'free')
    return {tonumber(token), 0, 0}
end

redis.call('ZADD', KEYS[3], now, me)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - 2 * ttl)
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -MOST_CANDIDATES - 1)
redis.call('PEXPIRE', KEYS[3], 2 * ttl)
local candidates = redis.call('ZRANGE', KEYS[3], 0, -1)
table.sort(candidates)
local preferred = candidates[tonumber(ARGV[5]) % #candidates + 1]
local elsewhere = 0
if preferred ~= me and now - redis.call('ZSCORE', KEYS[3], preferred) <= ttl / 2 then elsewhere = 1 end

if action == 'renew' then
    if holder ~= me or token ~= ARGV[3] then return {0, 0, elsewhere} end
    redis.call('PEXPIRE', KEYS[1], ttl)
    return {tonumber(token), ttl, elsewhere}
end
if held and holder ~= me then return {0, redis.call('PTTL', KEYS[1]), elsewhere} end
if not held and preferred ~= me and ARGV[6] ~= 'insist' then return {0, 0, elsewhere} end
token = token or redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], me .. ' ' .. token, 'PX', ttl)
return {tonumber(token), ttl, elsewhere}
