-- Removes what nobody misses from one shard: records of workers silent for longer than the
-- retention, and lapsed quiet marks. Bounded by `limit`.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the shard's workers, 2 watch, 3 quiet.
-- ARGV: 1 limit, 2 worker retention ms.
-- Returns: records removed
--@include keys now preflight remove_many
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2], 'LIMIT', 0, ARGV[1])
for _, worker in ipairs(old) do preflight_key(worker_key(worker)) end
run_preflight()
for _, worker in ipairs(old) do
    remove_member(KEYS[1], worker)
    remove_member(KEYS[2], worker)
    redis.call('DEL', worker_key(worker))
end
flush_removals()
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
return #old
