-- Removes the turns of tenants without jobs from a queue with a fair share, unless a tenant with jobs has a lower turn
-- (see tenant_turns.lua). A tenant that joins gets the lowest turn, so a queue without fetches keeps none of them.
-- Post: among the lowest turns, up to a number, only those of tenants with jobs are left. If more tenants have the
--       lowest turn, each call checks others.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 tenant_turns.
-- ARGV: 1 queue, 2 maximum number of turns to check.
-- Returns: number of removed turns
--@include keys now preflight
local turns_key, queue, limit = KEYS[1], ARGV[1], tonumber(ARGV[2])
local first = redis.call('ZRANGE', turns_key, 0, 0, 'WITHSCORES')[2]
if not first then return 0 end
local unchecked = redis.call('ZCOUNT', turns_key, first, first) - limit
local from = unchecked > 0 and now % (unchecked + 1) or 0
local rows, idle = redis.call('ZRANGE', turns_key, from, from + limit - 1, 'WITHSCORES'), {}
for i = 1, #rows, 2 do
    preflight_key(tenant_queue_key(queue, rows[i]))
    preflight_key(parked_jobs_key(queue, '', rows[i]))
end
run_preflight()
local lowest
for i = 1, #rows, 2 do
    local turn = tonumber(rows[i + 1])
    if lowest and turn > lowest then break end
    if redis.call('EXISTS', tenant_queue_key(queue, rows[i]), parked_jobs_key(queue, '', rows[i])) > 0 then lowest = turn
    else idle[#idle + 1] = rows[i] end
end
call_in_slices('ZREM', turns_key, idle)
return #idle
