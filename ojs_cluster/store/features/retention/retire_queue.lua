-- Removes a queue from one of its partitions.
-- Pre:  the queue has no job of any state here, is not paused or draining, is older than a given age or was
--       deleted, and an operator has set neither limits nor a bound nor on_exhaustion, nor created the queue.
-- Post: the keys of the queue are gone here. For the last partition, an effect removes the queue's name from
--       the registry of queue names.
-- Memory: allow-oom; adds 300 bytes until the name is removed.
-- KEYS: 1 queue_counters, 2 queue_available, 3 queue_minutes, 4 queue_blocked, 5 token_demand,
--       6 queue_history, 7 history_totals, 8 queue_times, 9 queue_types.
-- ARGV: 1 age ms, 2 the queue's name for its last partition, else ''.
-- Returns: {1, effects} when the queue was removed or did not exist
--          {0, {}, 1 if its tenants take turns, else 0, 1 if a deletion has left a drain or removed defaults here,
--          else 0} when it is in use
--@include keys now preflight set_deadline append_effect sample_queue
local counters_key, available_key, minutes_key = KEYS[1], KEYS[2], KEYS[3]
local blocked_key, demand_key, history_key, totals_key = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local times_key, types_key = KEYS[8], KEYS[9]
local age_ms, queue = tonumber(ARGV[1]), ARGV[2]
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
-- Fields that an unused queue may have with any value. The totals of change_counters.lua are among them,
-- because they never return to 0.
local IDLE = {created = true, open = true, seq = true, acked = true, max_per_second = true,
    declared_starts = true, declared_at = true, declared_by = true, undeclared_at = true,
    minute = true, demand_at = true, deleting = true, removed_defaults = true, rejected_at = true}
for _, name in ipairs(TOTALS) do IDLE[name] = true end
local is_fair, deletion, removed_defaults =
    unpack(redis.call('HMGET', counters_key, 'fair', 'deleting', 'removed_defaults'))
local IN_USE = {0, {}, is_fair and 1 or 0, (deletion or removed_defaults) and 1 or 0}
local field_list = redis.call('HGETALL', counters_key)
for i = 1, #field_list, 2 do
    local name, value = field_list[i], field_list[i + 1]
    if name == 'paused' or name == 'draining' or name == 'kept' or name == 'bound' or name == 'on_exhaustion' then
        return IN_USE
    end
    if name == 'created' and now - (tonumber(value) or 0) < age_ms then return IN_USE end
    if not IDLE[name] and value ~= '0' then return IN_USE end
end
if redis.call('EXISTS', available_key, blocked_key) > 0 then return IN_USE end
local sample, totals = sample_queue(counters_key, available_key, blocked_key, times_key), read_totals(totals_key)
if sample then -- the shard's totals keep what the queue has counted since its last sample
    local growth = growth_since(redis.call('HGET', history_key, 'last'), sample)
    for i = 1, #totals do totals[i] = totals[i] + growth[i] end
    write_totals(totals_key, totals)
end
if queue ~= '' then append_effect('unregister_queue', queue) end
redis.call('DEL', counters_key, minutes_key, demand_key, history_key, times_key, types_key)
return {1, effects}
