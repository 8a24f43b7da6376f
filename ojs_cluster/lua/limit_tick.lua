-- The scheduler looks at a key: time may have made room; a key that nobody uses is forgotten.
-- KEYS: 1 l:, 2 lh:, 3 la:, 4 the shard's lims, 5 limlook, 6 ob, 7 out.
-- ARGV: 1 key.
-- Returns: effects
--@include keys now deadline effect gauges meter limit dispense limit_close
local limit = load_limit(ARGV[1])
local fields = limit.fields
-- What was started may count for longer than a key is kept otherwise.
local period = tonumber(string.match(fields.limits or '', ',%d+:(%d+),') or 0)
local idle = limit.out == 0 and redis.call('ZCARD', KEYS[3]) == 0 and not override_holds(limit)
    and now - (fields.used or 0) >= math.max(KEEP_MS, period)
    and math.max(fields.hold or 0, fields.next or 0) <= now
if idle then
    redis.call('DEL', KEYS[1])
    redis.call('ZREM', KEYS[4], ARGV[1])
    redis.call('ZREM', KEYS[5], ARGV[1])
    return effects
end
local used = fields.used
dispense(limit)
close_limit(limit)
set_limit(limit, 'used', used or now)
return effects
