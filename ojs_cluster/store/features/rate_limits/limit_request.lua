-- Takes token requests of jobs of one shard for a rate limit key. A repeated request keeps its place among the
-- requests. If its token was granted, the answer is sent again, because a failover may have lost the answer.
-- Post: each job has its token, or its request waits in order. A job whose on_limit is not 'wait' is refused.
-- Memory: allow-oom; adds 200 bytes per request; each shard has at most 100 open ones per queue and key.
-- KEYS: 1 rate_limit, 2 token_holders, 3 token_requesters, 4 rate_limits, 5 rate_limit_checks, 6 outbox,
--       7 outbox_due, 8 events.
-- ARGV: 1 events kept, 2 rate limit key, 3 maximum number of events rate_limit.released,
--       4 packed limits of the jobs, which hold if the key has none, 5 on_limit of the jobs:
--         'w' wait
--         'r' reschedule
--         'd' drop
--       6 shard of the jobs, 7.. requests: <job id>/<request number>.
-- Returns: effects
--@include keys now read_job append_event set_deadline append_effect create_limiters count_starts
--@include rate_limit_state answer_token_requests close_rate_limit
begin_events(ARGV[1])
local LATER_MS = 5000 -- delay of a job whose request was refused, when only the end of a job frees a token
local holders_key, requesters_key = KEYS[2], KEYS[3]
local key, packed, on_limit, shard = ARGV[2], ARGV[4], ARGV[5], ARGV[6]
local limit = load_rate_limit(key)
if not limit.fields.limits then set_limit_field(limit, 'limits', packed) end
-- `new` has the tokens of the new requests as a list, and by token the request as it is in ARGV.
local new, granted_before, last_request = {}, {}, tonumber(limit.fields.last_request or 0)
for i = 7, #ARGV do
    local token = shard .. '/' .. ARGV[i]
    if redis.call('ZSCORE', holders_key, token) then
        granted_before[#granted_before + 1] = token
    elseif not redis.call('ZSCORE', requesters_key, token) then
        last_request = last_request + 1
        redis.call('ZADD', requesters_key, last_request, token)
        new[#new + 1] = token
        new[token] = ARGV[i]
    end
end
set_limit_field(limit, 'last_request', string.format('%.0f', last_request))
send_tokens(limit, granted_before)
local granted, refused, first_waiting = grant_tokens(limit, ARGV[3], new), '', nil
for _, token in ipairs(new) do
    if not granted[token] then
        first_waiting = first_waiting or token
        if on_limit ~= 'w' then
            remove_request(limit, token)
            refused = refused .. ' ' .. new[token]
        end
    end
end
if first_waiting then emit_exceeded(limit, first_waiting) end
if refused ~= '' then
    local wait = math.max(1, (tokens_free_at(limit, true) or now + LATER_MS) - now)
    local answer = on_limit .. string.format('%.0f', wait)
    append_effect('token_answer', shard .. ' ' .. key .. ' ' .. answer .. refused)
end
return close_rate_limit(limit)
