-- Transition: (nothing) -> tombstone. A tombstone is an alias that points to its own shard. It prevents a late
-- request from storing a job under the id. alias_claims lists the tombstone, so the janitor removes it.
-- An alias to another shard stays. The tombstone is then under it, and appears when the alias is removed
-- (remove_alias.lua). Until then the alias keeps late requests of this shard out.
-- Post: a producer that passes `token` may store a job in place of the tombstone. If `token` is '', no producer
--       may.
-- Memory: allow-oom; adds 300 bytes.
-- KEYS: 1 job hash of the id, 2 alias_claims.
-- ARGV: 1 id, 2 index of this shard, 3 token.
-- Returns: {'ok'} | {'stored'} when there is a job | {'moved', shard} when an alias points to another shard
--          {'kept'} when a transaction has reserved the id, or a tombstone without a token is there
--@include now read_job
local key, alias_claims, id, shard, token = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local state, alias, transaction, old_token, queue, job_type = unpack(
    redis.call('HMGET', key, F.state, F.alias, F.transaction, F.tombstone, F.queue, F.type))
if state or queue or job_type then return {'stored'} end -- a malformed job may lack one of them
if alias and alias ~= shard then
    -- A tombstone without a token stays as it is: its id must never be used.
    local under = shard .. ' '
    if redis.call('HGET', key, '@u') ~= under then redis.call('HSET', key, '@u', under .. token) end
    return {'moved', alias}
end
-- A transaction has reserved the id. It needs no tombstone: no other request can store a job under the id.
if transaction then return {'kept'} end
local is_final = alias and not old_token
redis.call('HSET', key, F.alias, shard)
if token == '' then redis.call('HDEL', key, F.tombstone)
elseif not is_final then redis.call('HSET', key, F.tombstone, token) end
redis.call('ZADD', alias_claims, now, id)
return {is_final and 'kept' or 'ok'}
