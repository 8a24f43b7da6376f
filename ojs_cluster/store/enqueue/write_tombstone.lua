-- Nothing is stored under an id in this shard any more, unless it is there: an alias that leads to its
-- own shard takes its place. It is listed as a claim, so that the janitor removes it.
-- Post: who knows `mark` may store in spite of it; with '' nobody, and that stays so.
-- Memory: allow-oom; adds 300 bytes.
-- KEYS: 1 job hash of the id, 2 the shard's claims.
-- ARGV: 1 id, 2 this shard, 3 mark.
-- Returns: {'there'} | {'fenced'} | {'moved', shard} when the id leads to another shard
--@include now read_job
local there = redis.call('HMGET', KEYS[1], F.state, F.alias, F.transaction, F.tombstone, F.queue, F.type)
if there[1] or there[5] or there[6] then return {'there'} end -- a malformed one, too
if there[2] and there[2] ~= ARGV[2] then return {'moved', there[2]} end
-- Reserved by a transaction, which stores it for nobody but who has claimed everything anew.
if there[3] then return {'fenced'} end
redis.call('HSET', KEYS[1], F.alias, ARGV[2])
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], F.tombstone)
elseif not there[2] or there[4] then redis.call('HSET', KEYS[1], F.tombstone, ARGV[3]) end
redis.call('ZADD', KEYS[2], now, ARGV[1])
return {'fenced'}
