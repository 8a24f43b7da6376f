-- Transition: begun -> begun without tries, for a request with an idempotency key that has stored no job.
-- Pre:  the caller is certain that its try has stored no job.
-- Post: the try does not count any more. If no other try counts, and none has a response, the key ends soon, and
--       another request may use it. It is not deleted, because a try may not be counted: an earlier version counts
--       none, and a failover may lose the write of one. Such a try and its repetition have the same seed.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 ik:<key>.
-- ARGV: 1 hash of the request, 2 seed of the try, 3 ms for which a key without tries is kept.
-- Returns: 1 if no try counts any more, otherwise 0
local key, request, seed, keep_ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local known, known_seed, response, tries = unpack(redis.call('HMGET', key, 'request', 'seed', 'response', 'tries'))
tries = tonumber(tries)
if known ~= request or known_seed ~= seed or response or not tries or tries < 1 then return 0 end
redis.call('HSET', key, 'tries', tries - 1)
if tries > 1 then return 0 end
redis.call('PEXPIRE', key, keep_ms)
return 1
