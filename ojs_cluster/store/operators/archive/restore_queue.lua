-- Restore counters and declared limits of a queue from an archive.
-- Post: each archived field is set, unless the queue already has a value. The jobs of the queue are unchanged.
--       A new queue has an outbox entry that registers its name.
-- Memory: deny-oom.
-- KEYS: 1 queue_counters.
-- ARGV: 1 queue, 2.. names and values of the fields.
-- Returns: effects
--@include keys now preflight set_deadline append_effect
local counters, queue = KEYS[1], ARGV[1]
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', counters, 'created', now) == 1 then append_effect('queue', queue) end
for i = 2, #ARGV, 2 do redis.call('HSETNX', counters, ARGV[i], ARGV[i + 1]) end
if redis.call('HEXISTS', counters, 'max_per_second') == 1 then
    redis.call('HSETNX', counters, 'declared_at', now)
end
return effects
