-- Which of these transactions of one shard are decided and not carried out; changes nothing.
-- Memory: no-writes.
-- KEYS: 1 b: of the first, then of each other.
-- Returns: per transaction 1 when it is, else 0
local open = {}
for i = 1, #KEYS do open[i] = redis.call('HEXISTS', KEYS[i], 'plan') end
return open
