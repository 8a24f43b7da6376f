-- Jobs of one shard ask for tokens of a key. Who asks again keeps the turn, or is answered again: the
-- answer was lost with a master.
-- Post: each has its token, or its turn; one that will not wait is refused instead.
-- Memory: allow-oom; adds 200 bytes per ask, of which a queue and key have 100 in each shard.
-- KEYS: 1 l:, 2 lh:, 3 la:, 4 the shard's lims, 5 limlook, 6 ob, 7 out, 8 ev.
-- ARGV: 1 events kept, 2 key, 3 packed limits, which hold if the key has none, 4 'w' wait |
--       'r' reschedule | 'd' drop, 5 shard of the jobs, 6.. asks: id/number.
-- Returns: effects
--@include keys now read_job append_event set_deadline append_effect read_gauges count_starts
--@include rate_limit_state answer_token_requests close_rate_limit
local limit = load_limit(ARGV[2])
if not limit.fields.limits then set_limit(limit, 'limits', ARGV[3]) end
local new, old, seq = {}, {}, tonumber(limit.fields.last_request or 0)
for i = 6, #ARGV do
    local token = ARGV[5] .. '/' .. ARGV[i]
    if redis.call('ZSCORE', KEYS[2], token) then
        old[#old + 1] = token
    elseif not redis.call('ZSCORE', KEYS[3], token) then
        seq = seq + 1
        redis.call('ZADD', KEYS[3], seq, token)
        new[#new + 1] = token
        new[token] = ARGV[i]
    end
end
set_limit(limit, 'last_request', string.format('%.0f', seq))
offer(limit, old)
local granted, refused, waits = dispense(limit, new), '', nil
for _, token in ipairs(new) do
    if not granted[token] then
        waits = waits or token
        if ARGV[4] ~= 'w' then
            answer(limit, token)
            refused = refused .. ' ' .. new[token]
        end
    end
end
if waits then tell_exceeded(limit, waits) end
if refused ~= '' then
    local wait = math.max(1, (limit_opens(limit, true) or now + LATER_MS) - now)
    append_effect('token_answer', ARGV[5] .. ' ' .. ARGV[2] .. ' ' .. ARGV[4] .. string.format('%.0f', wait) .. refused)
end
return close_limit(limit)
