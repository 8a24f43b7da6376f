-- A dead worker's jobs are all recovered: it leaves `lost`, unless it died again meanwhile.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the shard's lost.  ARGV: 1 worker id, 2 ms of the death that was handled.
-- Returns: 1 when it left
if redis.call('ZSCORE', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0
