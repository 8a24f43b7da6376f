-- A client's id is claimed in the shard that its bits name, before its job is written elsewhere.
-- Pre:  no job and no alias has the id here, or the alias already points to the same shard.
-- Post: the alias points to the job's shard, and the claim is listed until the job is seen. Who was
--       the first to claim it may give it back (release_alias.lua), as long as nobody else has.
-- Memory: deny-oom.
-- KEYS: 1 job hash of the id, 2 the shard's claims.
-- ARGV: 1 id, 2 shard of the job, 3 ms the claim is good for, 4 name of who claims ('' gives nothing
--       back).
-- Returns: {'ok', ms the claim lapses} | {'taken', shard} | {'exists', fields of the job here}
--@include now
local flat = redis.call('HGETALL', KEYS[1])
if #flat > 0 then
    if flat[1] ~= '@' then return {'exists', flat} end
    if flat[2] ~= ARGV[2] then return {'taken', flat[2]} end
end
-- First, as a script that has begun with a removal is not refused at maxmemory.
redis.call('ZADD', KEYS[2], now, ARGV[1])
if #flat == 0 then
    redis.call('HSET', KEYS[1], '@', ARGV[2])
    if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], '@c', ARGV[4]) end
elseif redis.call('HGET', KEYS[1], '@c') ~= ARGV[4] then
    redis.call('HDEL', KEYS[1], '@c')
end
return {'ok', now + ARGV[3]}
