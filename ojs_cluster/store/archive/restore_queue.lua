-- What was counted of a queue, and what its jobs have declared for it, comes back from a backup.
-- Post: what was saved is set, where nothing is set here. Its jobs are not touched. The name of a new
--       queue is owed to the registry.
-- Memory: deny-oom.
-- KEYS: 1 c:.  ARGV: 1 the queue, then names and values of its fields.
-- Returns: effects
--@include keys now preflight set_deadline append_effect
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', KEYS[1], 'created', now) == 1 then append_effect('queue', ARGV[1]) end
for i = 2, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
if redis.call('HEXISTS', KEYS[1], 'max_per_second') == 1 then redis.call('HSETNX', KEYS[1], 'declared_at', now) end
return effects
