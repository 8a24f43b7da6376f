-- Tokens of a key come back, or asks for them are taken back. Repeating it changes nothing.
-- Post: others have what is free; a start that was not reported is counted.
-- KEYS: 1 l:, 2 lh:, 3 la:, 4 the shard's lims, 5 limlook, 6 ob, 7 out.
-- ARGV: 1 key, 2 shard of the jobs, 3 'u' not started | 's' started, with the ms until which the key is
--       to be held, if any, 4.. asks: id/number.
-- Returns: effects
--@include keys now deadline effect gauges meter limit limit_close
local hold = tonumber(string.sub(ARGV[3], 2))
if not limit.used then return effects end
for i = 4, #ARGV do
    local token = ARGV[2] .. '/' .. ARGV[i]
    local score = redis.call('ZSCORE', KEYS[2], token)
    if score then
        if score == '0' and string.sub(ARGV[3], 1, 1) == 's' then count_starts(1)
        elseif score == '0' then coming = coming - 1 end
        out = out - 1
        table.insert(returned, token)
    elseif redis.call('ZSCORE', KEYS[3], token) then
        answer(token)
    end
end
-- A worker that is wrong about the time must not stop a key for ever.
hold = hold and math.min(hold, now + KEEP_MS)
if hold and hold > tonumber(limit.hold or 0) then set_limit('hold', string.format('%.0f', hold)) end
dispense()
return close_limit()
