-- Which of these deals of one shard are decided and not carried out; changes nothing.
-- KEYS: b: of each.
-- Returns: per deal 1 when it is, else 0
local open = {}
for i, key in ipairs(KEYS) do open[i] = redis.call('HEXISTS', key, 'plan') end
return open
