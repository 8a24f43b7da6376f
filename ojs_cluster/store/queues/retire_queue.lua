-- A queue that holds no job of any state, is not paused, has no limits or bound set by an operator and is
-- older than `age` is forgotten. With its last partition its name is owed to the registry, which
-- removes it.
-- Memory: allow-oom; adds 300 bytes until the name is removed.
-- KEYS: 1 c:, 2 q:, 3 m:, 4 h:, 5 hq:.  ARGV: 1 age ms, 2 the queue in its last partition, else ''.
-- Returns: {1, effects} when gone (or never there), {0, {}} when in use
--@include keys now preflight set_deadline append_effect
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
local IDLE = {created = true, open = true, seq = true, acked = true, max_per_second = true, declared_starts = true,
    declared_at = true, declared_by = true, undeclared_at = true,
    -- totals never shrink: see metrics.lua
    minute = true, demand_at = true, came = true, failed = true, ran = true, waited = true}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
    local name, value = flat[i], flat[i + 1]
    if name == 'paused' or name == 'bound' then return {0, {}} end
    if name == 'created' and now - (tonumber(value) or 0) < tonumber(ARGV[1]) then return {0, {}} end
    if not IDLE[name] and value ~= '0' then return {0, {}} end
end
if redis.call('EXISTS', KEYS[2], KEYS[4]) > 0 then return {0, {}} end
if ARGV[2] ~= '' then append_effect('unlist', ARGV[2]) end
redis.call('DEL', KEYS[1], KEYS[3], KEYS[5])
return {1, effects}
