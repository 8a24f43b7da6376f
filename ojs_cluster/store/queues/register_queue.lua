-- A queue's name enters the registry, which is bounded: names come from clients.
-- Memory: deny-oom; as register_again, a name that was taken from a queue in use, allow-oom.
-- KEYS: 1 the registry.  ARGV: 1 name, 2 most names.
-- Returns: how many names are registered when this one is (now or before), 0 when it is full
local registered = redis.call('ZCARD', KEYS[1])
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return registered end
if registered >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], 0, ARGV[1])
return registered + 1
