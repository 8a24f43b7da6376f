-- Transition: (nothing) -> alias, in the owner shard of a client-chosen id, before its job is stored elsewhere.
-- Pre:  no job and no alias has the id here, or the alias points to the same shard.
-- Post: the alias points to the job's shard, and the claim is listed until the job is seen. The first
--       claimer may release it (release_alias.lua) as long as no other has claimed the id.
-- Memory: deny-oom.
-- KEYS: 1 job hash of the id, 2 alias_claims.
-- ARGV: 1 id, 2 shard of the job, 3 validity of the claim (ms), 4 name of the claimer ('' never releases).
-- Returns: {'ok', time (ms) at which the claim expires} | {'taken', shard} | {'exists', fields of the job here}
--@include now
local key, alias_claims = KEYS[1], KEYS[2]
local id, shard, valid_ms, claimer = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local field_list = redis.call('HGETALL', key)
if #field_list > 0 then
    if field_list[1] ~= '@' then return {'exists', field_list} end
    if field_list[2] ~= shard then return {'taken', field_list[2]} end
end
-- First, because a script that has begun with a removal is not refused at maxmemory.
redis.call('ZADD', alias_claims, now, id)
if #field_list == 0 then
    redis.call('HSET', key, '@', shard)
    if claimer ~= '' then redis.call('HSET', key, '@c', claimer) end
elseif redis.call('HGET', key, '@c') ~= claimer then
    redis.call('HDEL', key, '@c')
end
return {'ok', now + valid_ms}
