-- Leadership of a scheduler group.
-- 'acquire': the lock is free -> held by this identity, with a fencing token larger than all before.
-- 'renew':   held by this identity and token -> its time starts anew.
-- 'release': held by this identity and token -> free.
-- Memory: allow-oom; adds 300 bytes per scheduler group.
-- KEYS: 1 lock, 2 fencing counter.
-- ARGV: 1 'acquire' | 'renew' | 'release', 2 identity, 3 token (0 for acquire), 4 ttl ms.
-- Returns: the token when it holds afterwards (or was released), 0 when not
--          (acquire repeated by the holder, after a lost reply, gives the token it already has)
local held = redis.call('GET', KEYS[1])
local holder, token
if held then holder, token = string.match(held, '^(.*) (%d+)$') end
if ARGV[1] == 'acquire' then
    if held and holder ~= ARGV[2] then return 0 end
    token = token or redis.call('INCR', KEYS[2])
    redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. token, 'PX', ARGV[4])
    return tonumber(token)
end
if holder ~= ARGV[2] or token ~= ARGV[3] then return 0 end
if ARGV[1] == 'renew' then redis.call('PEXPIRE', KEYS[1], ARGV[4]) else redis.call('DEL', KEYS[1]) end
return tonumber(token)
