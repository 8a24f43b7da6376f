-- Transition: lost -> (nothing), for a dead worker whose jobs are all recovered.
-- Pre:  lost_workers has the same time of death. Otherwise the worker came back and died again.
-- Post: the recovery of this death is not repeated.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 lost_workers.
-- ARGV: 1 worker id, 2 time of the death that was handled (ms).
-- Returns: 1 when the worker was removed, otherwise 0
local LOST_WORKERS, id, died = KEYS[1], ARGV[1], ARGV[2]
if redis.call('ZSCORE', LOST_WORKERS, id) == died then return redis.call('ZREM', LOST_WORKERS, id) end
return 0
