-- Replaces this shard's copy of the weights of tenants.
-- Post: the hash has the given fields and no others. Fetches use them from now on. Without fields the key is gone.
-- Memory: allow-oom; adds 250 bytes per tenant with a weight, for 1000 tenants at most.
-- KEYS: 1 tenant_weights.
-- ARGV: 1.. name and value of each field, in pairs.
-- Returns: number of fields
--@include long_lists
local weights_key, wanted, old = KEYS[1], {}, {}
if #ARGV == 0 then
    redis.call('DEL', weights_key)
    return 0
end
for i = 1, #ARGV, 2 do wanted[ARGV[i]] = true end
for _, name in ipairs(redis.call('HKEYS', weights_key)) do
    if not wanted[name] then old[#old + 1] = name end
end
call_in_slices('HSET', weights_key, ARGV)
call_in_slices('HDEL', weights_key, old)
return #ARGV / 2
