-- The scheduler looks at a key: time may have made room; a key that nobody uses is forgotten. Now and
-- then what is given out is offered once more: a token whose job was lost with a master comes back.
-- Memory: allow-oom; adds 300 bytes.
-- KEYS: 1 l:, 2 lh:, 3 la:, 4 the shard's lims, 5 limlook, 6 ob, 7 out, 8 ev.
-- ARGV: 1 events kept, 2 key.
-- Returns: effects
--@include keys now read_job append_event set_deadline append_effect read_gauges count_starts
--@include rate_limit_state answer_token_requests close_rate_limit
local limit = load_limit(ARGV[2])
local fields, CHECKED = limit.fields, 500
-- What was started may count for longer than a key is kept otherwise.
local period = tonumber(string.match(fields.limits or '', ',%d+:(%d+),') or 0)
local idle = limit.out == 0 and redis.call('ZCARD', KEYS[3]) == 0 and not override_holds(limit)
    and now - (fields.used_at or 0) >= math.max(keep_ms(), period)
    and math.max(fields.hold_until or 0, fields.next_start or 0) <= now
if idle then
    redis.call('DEL', KEYS[1])
    redis.call('ZREM', KEYS[4], ARGV[2])
    redis.call('ZREM', KEYS[5], ARGV[2])
    return effects
end
local used = fields.used_at
if limit.out > 0 and now - (fields.checked_at or now) >= LIMIT_CHECK_MS then
    local at = tonumber(fields.check_offset or 0)
    local tokens = redis.call('ZRANGE', KEYS[2], at, at + CHECKED - 1)
    for from = 1, #tokens, 100 do
        offer(limit, {unpack(tokens, from, math.min(from + 99, #tokens))})
    end
    -- Where there are many it takes several looks, a second apart.
    local goes_on = #tokens == CHECKED
    set_limit(limit, 'check_offset', goes_on and at + CHECKED or 0)
    set_limit(limit, 'checked_at', goes_on and now - LIMIT_CHECK_MS + 1000 or now)
end
dispense(limit)
close_limit(limit)
set_limit(limit, 'used_at', used or now)
return effects
