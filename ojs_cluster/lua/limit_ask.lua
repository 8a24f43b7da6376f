-- Jobs of one shard ask for tokens of a key. Who asks again keeps the turn, or is answered again: the
-- answer was lost with a master.
-- Post: each has its token, or its turn; one that will not wait is refused instead.
-- KEYS: 1 l:, 2 lh:, 3 la:, 4 the shard's lims, 5 limlook, 6 ob, 7 out.
-- ARGV: 1 key, 2 packed limits, which hold if the key has none, 3 'w' wait | 'r' reschedule | 'd' drop,
--       4 shard of the jobs, 5.. asks: id/number.
-- Returns: effects
--@include keys now deadline effect gauges meter limit dispense limit_close
local limit = load_limit(ARGV[1])
if not limit.fields.limits then set_limit(limit, 'limits', ARGV[2]) end
local new, old, seq = {}, {}, tonumber(limit.fields.seq or 0)
for i = 5, #ARGV do
    local token = ARGV[4] .. '/' .. ARGV[i]
    if redis.call('ZSCORE', KEYS[2], token) then
        old[#old + 1] = token
    elseif not redis.call('ZSCORE', KEYS[3], token) then
        seq = seq + 1
        redis.call('ZADD', KEYS[3], seq, token)
        new[#new + 1] = i
    end
end
set_limit(limit, 'seq', string.format('%.0f', seq))
offer(limit, old)
local granted, refused = dispense(limit), ''
for _, i in ipairs(ARGV[3] ~= 'w' and new or {}) do
    local token = ARGV[4] .. '/' .. ARGV[i]
    if not granted[token] then
        answer(limit, token)
        refused = refused .. ' ' .. ARGV[i]
    end
end
if refused ~= '' then
    local wait = math.max(1, (limit_opens(limit, true) or now + LATER_MS) - now)
    owe('grant', ARGV[4] .. ' ' .. ARGV[1] .. ' ' .. ARGV[3] .. string.format('%.0f', wait) .. refused)
end
return close_limit(limit)
