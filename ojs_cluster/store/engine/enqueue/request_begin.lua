-- Transition: (nothing) -> begun, for a request with an idempotency key.
-- Pre:  no request with another body has used the key, except one without tries that may have stored a job.
-- Post: if the request has jobs to store, the seed of their ids is stored, and the try counts. A repetition gets the
--       seed, and the response if it was kept.
-- Memory: deny-oom.
-- KEYS: 1 ik:<key>.
-- ARGV: 1 hash of the request, 2 seed, 3 ms for which the key is kept, 4 '1' if the request has jobs to store.
-- Returns: {'ok', seed or '', response or ''} | {'conflict'}
local key, request, seed, keep_ms, has_jobs = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local known, known_seed, response, tries = unpack(redis.call('HMGET', key, 'request', 'seed', 'response', 'tries'))
tries = tonumber(tries)  -- a key of an earlier version counts none, and is not forgotten
local is_other = known and known ~= request
if is_other and (response or tries ~= 0) then return {'conflict'} end
if known and known_seed and not is_other then
    if has_jobs and tries then redis.call('HSET', key, 'tries', tries + 1) end
    if has_jobs and tries == 0 then redis.call('PEXPIRE', key, keep_ms) end
    return {'ok', known_seed, response or ''}
end
if not has_jobs then return {'ok', '', ''} end
redis.call('HSET', key, 'request', request, 'seed', seed, 'tries', 1)
redis.call('PEXPIRE', key, keep_ms)
return {'ok', seed, ''}
