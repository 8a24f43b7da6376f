-- Reads which transactions of one shard are committed and not yet applied.
-- Memory: no-writes.
-- KEYS: 1 transaction of the first id, then transaction of each other id.
-- Returns: per transaction 1 when it is committed and not yet applied, otherwise 0
local unapplied = {}
for i = 1, #KEYS do unapplied[i] = redis.call('HEXISTS', KEYS[i], 'plan') end
return unapplied
