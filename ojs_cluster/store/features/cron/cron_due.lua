-- Reads the cron jobs that are due for a check. The caller reads those with large fields one by one. Removes names
-- without a cron job from the index.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 crons.
-- ARGV: 1 maximum number of cron jobs, 2 maximum size (bytes) of the fields that may be large.
-- Returns: {now, time of the next check that is not due (ms; -1 none), then for each cron job its name, and its fields
--          or {} if they are large or its key has another type}
--@include keys now long_lists
local CRONS, limit, most_bytes = KEYS[1], ARGV[1], tonumber(ARGV[2])
local reply, gone = {now, -1}, {}

local function small_fields(key)
    if redis.call('TYPE', key).ok ~= 'hash' then return {} end
    local size = 0
    for _, field in ipairs({'job', 'description', 'firing_job'}) do size = size + redis.call('HSTRLEN', key, field) end
    return size <= most_bytes and redis.call('HGETALL', key) or {}
end

for _, name in ipairs(redis.call('ZRANGEBYSCORE', CRONS, '-inf', now, 'LIMIT', 0, limit)) do
    if redis.call('EXISTS', CRONS, cron_key(name)) == 2 then
        reply[#reply + 1] = name
        reply[#reply + 1] = small_fields(cron_key(name))
    else
        gone[#gone + 1] = name
    end
end
local after = redis.call('ZRANGEBYSCORE', CRONS, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if after[2] then reply[2] = tonumber(after[2]) end
-- Last: a set that becomes empty is deleted (see preflight.lua).
call_in_slices('ZREM', CRONS, gone)
return reply
