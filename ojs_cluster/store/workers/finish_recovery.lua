-- Transition: lost -> (nothing), for a dead worker whose jobs are all recovered.
-- Pre:  the worker has not died again since.
-- Post: its recovery is not repeated.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 lost_workers.
-- ARGV: 1 worker id, 2 ms of the death that was handled.
-- Returns: 1 when the worker was removed, else 0
local LOST_WORKERS, id, died = KEYS[1], ARGV[1], ARGV[2]
if redis.call('ZSCORE', LOST_WORKERS, id) == died then return redis.call('ZREM', LOST_WORKERS, id) end
return 0
