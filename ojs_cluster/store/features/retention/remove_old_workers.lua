-- Removes up to `limit` records of workers that have sent no heartbeat for the retention time, and all expired
-- quiet flags of one shard.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 workers, 2 watched, 3 quiet_workers.
-- ARGV: 1 limit, 2 worker retention ms.
-- Returns: number of records removed
--@include keys now preflight remove_many
local workers, watched, quiet_workers = KEYS[1], KEYS[2], KEYS[3]
local limit, retention_ms = ARGV[1], ARGV[2]
local old = redis.call('ZRANGEBYSCORE', workers, '-inf', now - retention_ms, 'LIMIT', 0, limit)
for _, worker in ipairs(old) do preflight_key(worker_key(worker)) end
run_preflight()
for _, worker in ipairs(old) do
    remove_member(workers, worker)
    remove_member(watched, worker)
    redis.call('DEL', worker_key(worker))
end
flush_removals()
redis.call('ZREMRANGEBYSCORE', quiet_workers, '-inf', now)
return #old
