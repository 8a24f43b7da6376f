-- Tokens of a key come back, or asks for them are taken back. Repeating it changes nothing.
-- Post: others have what is free; a start that was not reported is counted.
-- Memory: allow-oom; adds 300 bytes.
-- KEYS: 1 l:, 2 lh:, 3 la:, 4 the shard's lims, 5 limlook, 6 ob, 7 out, 8 ev.
-- ARGV: 1 events kept, 2 key, 3 shard of the jobs, 4 'u' not started | 's' started, with the ms until
--       which the key is to be held, if any, 5.. asks: id/number.
-- Returns: effects
--@include keys now read_job append_event set_deadline append_effect read_gauges count_starts
--@include rate_limit_state answer_token_requests close_rate_limit
local limit = load_limit(ARGV[2])
if not limit.fields.used_at then return effects end
local started, hold = string.sub(ARGV[4], 1, 1) == 's', tonumber(string.sub(ARGV[4], 2))
for i = 5, #ARGV do
    local token = ARGV[3] .. '/' .. ARGV[i]
    local score = redis.call('ZSCORE', KEYS[2], token)
    if score then
        if score == '0' and started then count_starts(limit, 1)
        elseif score == '0' then limit.coming = limit.coming - 1 end
        limit.out = limit.out - 1
        table.insert(limit.returned, token)
    elseif redis.call('ZSCORE', KEYS[3], token) then
        answer(limit, token)
    end
end
-- A worker that is wrong about the time must not stop a key for ever.
hold = hold and math.min(hold, now + KEEP_MS)
if hold and hold > tonumber(limit.fields.hold_until or 0) then
    set_limit(limit, 'hold_until', string.format('%.0f', hold))
    tell(limit, 'rate_limit.dynamic_adjusted', '', 'n', limit.fields.hold_until)
end
dispense(limit)
return close_limit(limit)
