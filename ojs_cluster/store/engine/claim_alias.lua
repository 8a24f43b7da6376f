-- Transition: (nothing) -> alias, in the owner shard of a client-chosen id, before its job is stored in another
-- shard.
-- Pre:  no job is stored under the id in this shard, and no alias of the id points to a third shard. A tombstone with a
--       token may be there: it keeps a request out that stores its job in this shard, and so does the alias. When the
--       alias is removed, the tombstone is back (remove_alias.lua).
-- Post: the alias points to the job's shard. alias_claims lists the claim until the janitor has seen the job.
--       The first claimer may release the claim (release_alias.lua) as long as no other producer has claimed
--       the id. For this the field `@c` holds the name of the claimer while there is only one.
-- Memory: deny-oom.
-- KEYS: 1 job hash of the id, 2 alias_claims.
-- ARGV: 1 id, 2 index of the job's shard, 3 validity of the claim (ms),
--       4 name of the claimer ('': the claim cannot be released).
-- Returns: {'ok', time (ms) at which the claim expires}
--          {'taken', index of the shard to which the alias points}
--          {'exists', fields of the job that is stored in this shard}
--@include now
local key, alias_claims = KEYS[1], KEYS[2]
local id, shard, valid_ms, claimer, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4], nil
local field_list = redis.call('HGETALL', key)
if #field_list > 0 then
    if field_list[1] ~= '@' then return {'exists', field_list} end
    if field_list[2] ~= shard then
        token = redis.call('HGET', key, '@f')
        if not token then return {'taken', field_list[2]} end
    end
end
-- The first write must be one that Redis refuses at maxmemory. After a first HDEL, the later writes would be
-- accepted.
redis.call('ZADD', alias_claims, now, id)
if token then
    redis.call('HSET', key, '@', shard, '@u', field_list[2] .. ' ' .. token)
    redis.call('HDEL', key, '@f')
    field_list = {}
end
if #field_list == 0 then
    redis.call('HSET', key, '@', shard)
    if claimer ~= '' then redis.call('HSET', key, '@c', claimer) end
elseif redis.call('HGET', key, '@c') ~= claimer then
    redis.call('HDEL', key, '@c')
end
return {'ok', now + valid_ms}
