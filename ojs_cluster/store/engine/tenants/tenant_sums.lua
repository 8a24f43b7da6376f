-- Reads the counters of some tenants in this shard; changes nothing. Damaged numbers count as 0.
-- Memory: no-writes.
-- KEYS: 1 tenant_counters of the first tenant, then those of each further tenant.
-- ARGV: 1.. names of the counters.
-- Returns: per tenant, per counter: the number
--@include keys now fields validate_job
local reply = {}
for _, key in ipairs(KEYS) do
    for _, value in ipairs(redis.call('HMGET', key, unpack(ARGV))) do
        -- A process of version 0.1 may leave the number of one shard below zero.
        reply[#reply + 1] = is_number(value) and math.max(0, math.floor(tonumber(value))) or 0
    end
end
return reply
