-- Registers a queue's name. The registry is bounded, because clients choose the names.
-- Memory: deny-oom; as register_again, a name that was taken from a queue in use, allow-oom.
-- KEYS: 1 meta queues.  ARGV: 1 name, 2 most names.
-- Returns: the number of registered names when this one is among them, else 0
local registry_key, name, most_names = KEYS[1], ARGV[1], tonumber(ARGV[2])
local registered = redis.call('ZCARD', registry_key)
if redis.call('ZSCORE', registry_key, name) then return registered end
if registered >= most_names then return 0 end
redis.call('ZADD', registry_key, 0, name)
return registered + 1
