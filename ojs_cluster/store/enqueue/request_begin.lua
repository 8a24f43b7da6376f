-- Transition: (nothing) -> begun, for a request with an idempotency key.
-- Pre:  no request with another body has used the key.
-- Post: the seed of the request's job ids is stored. A repetition gets the seed, and the response if it was kept.
-- Memory: deny-oom.
-- KEYS: 1 ik:<key>.
-- ARGV: 1 hash of the request, 2 seed, 3 ms for which the key is kept.
-- Returns: {'ok', seed, response or ''} | {'conflict'}
local key, request, seed, keep_ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local known, known_seed, response = unpack(redis.call('HMGET', key, 'request', 'seed', 'response'))
if known and known ~= request then return {'conflict'} end
if known and known_seed then return {'ok', known_seed, response or ''} end
redis.call('HSET', key, 'request', request, 'seed', seed)
redis.call('PEXPIRE', key, keep_ms)
return {'ok', seed, ''}
