-- Transition: begun -> (nothing), for a request with an idempotency key that has stored no job.
-- Pre:  the caller is certain that its try has stored no job.
-- Post: the try does not count any more. If no other try runs or has an unknown outcome, and none has a response, the
--       key is gone.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 ik:<key>.
-- ARGV: 1 hash of the request, 2 seed of the try.
-- Returns: 1 if the key is gone, otherwise 0
local key, request, seed = KEYS[1], ARGV[1], ARGV[2]
local known, known_seed, response, tries = unpack(redis.call('HMGET', key, 'request', 'seed', 'response', 'tries'))
tries = tonumber(tries)
if known ~= request or known_seed ~= seed or response or not tries then return 0 end
if tries > 1 then
    redis.call('HSET', key, 'tries', tries - 1)
    return 0
end
redis.call('DEL', key)
return 1
