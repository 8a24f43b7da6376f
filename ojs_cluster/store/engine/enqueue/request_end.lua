-- Transition: begun -> ended, for a request with an idempotency key.
-- Post: the response is stored with the key, unless the key is gone or belongs to another request, or has the
--       response of another try.
-- Memory: allow-oom; adds 256 KiB.
-- KEYS: 1 ik:<key>.
-- ARGV: 1 hash of the request, 2 response, 3 ms for which the key is kept from now on.
-- Returns: 1 if the key has a response now, otherwise 0
local key, request, response, keep_ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
if redis.call('HGET', key, 'request') ~= request then return 0 end
redis.call('HSETNX', key, 'response', response)
redis.call('PEXPIRE', key, keep_ms)
return 1
