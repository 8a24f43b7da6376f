-- Switches the fair share between tenants on or off in one partition of a queue.
-- Post: it holds for all fetches from now on. Fetches search the waiting jobs for tenants, 100 in a call
--       (see tenant_turns.lua). The name of a new queue is sent to the registry of queue names.
-- Memory: allow-oom; adds 600 bytes per queue.
-- KEYS: 1 queue_counters, 2 tenant_turns.
-- ARGV: 1 queue, 2 '1' on, '' off.
-- Returns: effects
--@include keys now preflight set_deadline append_effect
local counters_key, turns_key, queue, wanted = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', counters_key, 'created', now) == 1 then append_effect('queue', queue) end
if wanted == '' then
    redis.call('HDEL', counters_key, 'fair', 'fair_from')
    redis.call('UNLINK', turns_key)
elseif redis.call('HGET', counters_key, 'fair') ~= wanted then
    redis.call('HSET', counters_key, 'fair', wanted, 'fair_from', '-inf')
end
return effects
