-- Remembers that a tenant has new jobs, for the list of tenants. Forgets those that were not seen for some
-- time, and the least recently seen ones above a maximum number. Those with settings stay.
-- Memory: allow-oom; adds 250 bytes per tenant, for 100,000 tenants at most.
-- KEYS: 1 meta known_tenants, 2 meta tenants.
-- ARGV: 1 tenant, 2 ms to remember a tenant, 3 maximum number of tenants.
-- Returns: number of known tenants
--@include now
local known_key, tenants_key, max_known = KEYS[1], KEYS[2], tonumber(ARGV[3])
local MAX_FORGOTTEN = 100 -- bounds the time of this script
redis.call('ZADD', known_key, now, ARGV[1])
local known = redis.call('ZCARD', known_key)
local oldest = redis.call('ZRANGE', known_key, 0, MAX_FORGOTTEN - 1, 'WITHSCORES')
for i = 1, #oldest, 2 do
    if known <= max_known and tonumber(oldest[i + 1]) > now - ARGV[2] then break end
    if redis.call('HEXISTS', tenants_key, oldest[i]) == 1 then redis.call('ZADD', known_key, now, oldest[i])
    else
        redis.call('ZREM', known_key, oldest[i])
        known = known - 1
    end
end
return known
