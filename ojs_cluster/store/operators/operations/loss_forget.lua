-- Removes the recorded loss of a tag, because an operator has acknowledged it.
-- Post: the copy of the layout has no loss, or another one than the given one.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 schema.
-- ARGV: 1 the recorded loss.
-- Returns: 1 when it was removed, else 0
if redis.call('HGET', KEYS[1], 'loss') ~= ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[1], 'loss')
