-- Wakes the workers that wait for queues whose limits allow jobs to start again. Reports whether token grants
-- and which rate limit keys are due, but does not handle them.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 exhausted_queues, 2 token_grants, 3 rate_limit_checks.
-- ARGV: 1 maximum number of queues, 2 maximum number of rate limit keys.
-- Returns: {number of queues woken, now, ms at which the next work is due or -1, 1 when token grants are due,
--           due rate limit keys}
--@include keys now remove_many lowest_remaining wake_queue
local exhausted_key, grants_key, checks_key = KEYS[1], KEYS[2], KEYS[3]
local max_queues, max_keys = ARGV[1], ARGV[2]
local queues = redis.call('ZRANGEBYSCORE', exhausted_key, '-inf', now, 'LIMIT', 0, max_queues)
for _, queue in ipairs(queues) do
    remove_member(exhausted_key, queue)
    wake_queue(queue)
end
local next_due = lowest_remaining(exhausted_key) or -1
for _, zset in ipairs({grants_key, checks_key}) do
    local first = redis.call('ZRANGEBYSCORE', zset, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    local at = tonumber(first[2] or -1)
    if at >= 0 and (next_due < 0 or at < next_due) then next_due = at end
end
local due_grants = redis.call('ZRANGEBYSCORE', grants_key, '-inf', now, 'LIMIT', 0, 1)
local due_keys = redis.call('ZRANGEBYSCORE', checks_key, '-inf', now, 'LIMIT', 0, max_keys)
flush_removals()
return {#queues, now, next_due, #due_grants, due_keys}
