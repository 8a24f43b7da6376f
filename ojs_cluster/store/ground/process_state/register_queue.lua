-- Registers a queue's name. The number of names has a maximum, because clients choose the names. Under the name
-- register_again, the same script runs for a queue that is in use, even when the memory of Redis is full.
-- Memory: deny-oom; as register_again, for a queue in use, allow-oom.
-- KEYS: 1 meta queues.
-- ARGV: 1 name, 2 maximum number of names.
-- Returns: the number of registered names when this one is among them, else 0
local registry_key, name, max_names = KEYS[1], ARGV[1], tonumber(ARGV[2])
local registered = redis.call('ZCARD', registry_key)
if redis.call('ZSCORE', registry_key, name) then return registered end
if registered >= max_names then return 0 end
redis.call('ZADD', registry_key, 0, name)
return registered + 1
