-- Transition: firing claimed -> delivered | refused | claimed, and held runs -> released, for one cron job.
-- Post: 'delivered':  the firing's job is stored, and the firing is removed.
--       'refused':    no job can be made. The firing is removed, and its history entry says why.
--       'failed':     the job could not be stored, or the occurrence could not be decided. Unless the cron job has
--                     another firing by now, the next check follows after a pause.
--       'unreadable': the cron job could not be read, or its key has another type. The next check follows after a pause.
--                     A deleted one is removed if its runs are damaged.
--       'checked':    the given runs have ended, and the given held runs were released.
-- Memory: allow-oom; adds 500 bytes.
-- KEYS: 1 cron:<name>, 2 crons, 3 cron_history:<name>.
-- ARGV: 1 name, 2 outcome, 3 job id of the firing ('' none), 4 ids of runs that ended, 5 ids of runs released,
--       6 first and 7 longest pause (ms), 8 why the firing was refused.
-- Returns: 'ok' | 'missing'
--@include keys now set_deadline cron_record
local HISTORY = KEYS[3]
local name, outcome, firing, ended, released = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local first_pause, longest_pause, reason = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
if has_wrong_type() then
    set_deadline(CRONS, name, now + longest_pause)
    return 'ok'
end
local cron = load_cron()
if not cron then return 'missing' end
if cron.deleted and outcome == 'unreadable' and has_damaged_runs(cron) then
    redis.call('DEL', CRON)
    redis.call('ZREM', CRONS, name)
    return 'ok'
end
-- Another process has delivered this firing before it was refused. So its run stays among the open runs.
if outcome == 'refused' and cron.firing ~= firing then return 'ok' end
if (outcome == 'delivered' or outcome == 'refused') and cron.firing == firing then
    if outcome == 'refused' then
        for i, line in ipairs(redis.pcall('LRANGE', HISTORY, 0, -1)) do
            local times, id = string.match(line, '^%a+ (%d+ %d+) (%S+)$')
            if id == cron.firing then
                redis.call('LSET', HISTORY, i - 1, 'error ' .. times .. ' ' .. reason)
                break
            end
        end
        -- A registration that found damaged fields has counted the runs from 0 again.
        if (tonumber(redis.call('HGET', CRON, 'runs') or '') or 0) > 0 then increment(CRON, 'runs', -1) end
    end
    redis.call('HDEL', CRON, 'firing', 'firing_occurrence', 'firing_job', 'firing_cancels', 'firing_held',
        'next_maintenance', 'failures', 'not_before')
    cron.firing = nil
elseif outcome == 'unreadable' or outcome == 'failed' and (cron.firing or '') == firing then
    local failures = increment(CRON, 'failures', 1)
    local pause = math.min(longest_pause, first_pause * 2 ^ math.min(failures - 1, 30))
    redis.call('HSET', CRON, 'not_before', format_ms(now + pause))
end
local held_runs = list_without(cron.held_runs, ended .. ' ' .. released)
redis.call('HSET', CRON, 'open_runs', table.concat(list_without(cron.open_runs, ended), ' '))
if #held_runs > 0 then
    redis.call('HSET', CRON, 'held_runs', table.concat(held_runs, ' '))
    -- Held runs are checked once a second. The time is a whole second, so that a due occurrence is handled at the
    -- same check.
    if not cron.firing then
        redis.call('HSET', CRON, 'next_maintenance', format_ms(math.floor(now / 1000) * 1000 + 1000))
    end
else
    redis.call('HDEL', CRON, 'held_runs')
    if not cron.firing then redis.call('HDEL', CRON, 'next_maintenance') end
    if cron.deleted and not cron.firing then
        redis.call('DEL', CRON)
        redis.call('ZREM', CRONS, name)
        return 'ok'
    end
end
schedule_check(name)
return 'ok'
