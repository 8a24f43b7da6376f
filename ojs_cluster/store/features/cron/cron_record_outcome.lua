-- Transition: firing claimed -> delivered | refused | claimed, and held runs -> released, for each of some cron jobs on
--       its own.
-- Post: 'delivered':  the firing's job is stored, and the firing is removed.
--       'refused':    no job can be made. The firing is removed, and its history entry says why.
--       'failed':     the job could not be stored, or the occurrence could not be decided. Unless the cron job has
--                     another firing by now, the next check follows after a pause.
--       'unreadable': the cron job could not be read, or its key has another type. The next check follows after a pause.
--                     A deleted one is removed if its runs are damaged.
--       'checked':    the given runs have ended, and the given held runs were released. Unless an occurrence is due,
--                     which the same check handles next, the check has succeeded: a later failure is the first one.
-- Memory: allow-oom; adds 500 bytes.
-- KEYS: 1 crons, then for each cron job cron:<name> and cron_history:<name>.
-- ARGV: 1 first and 2 longest pause (ms), then for each cron job:
--       1 name, 2 outcome, 3 job id of the firing ('' none), 4 ids of runs that ended, 5 ids of runs released,
--       6 why the firing was refused.
-- Returns: 'ok'
--@include keys now set_deadline cron_record
local CRONS, first_pause, longest_pause = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local FIRST, ARGUMENTS = 3, 6

local function remove(key, name)
    redis.call('DEL', key)
    redis.call('ZREM', CRONS, name)
end

-- Removes the firing. If it was refused, its history entry says why.
local function end_firing(key, history, cron, outcome, reason)
    if outcome == 'refused' then
        for i, line in ipairs(redis.pcall('LRANGE', history, 0, -1)) do
            local times, id = string.match(line, '^%a+ (%d+ %d+) (%S+)$')
            if id == cron.firing then
                redis.call('LSET', history, i - 1, 'error ' .. times .. ' ' .. reason)
                break
            end
        end
        -- A registration that found damaged fields has counted the runs from 0 again.
        if (tonumber(redis.call('HGET', key, 'runs') or '') or 0) > 0 then increment(key, 'runs', -1) end
    end
    redis.call('HDEL', key, 'firing', 'firing_occurrence', 'firing_job', 'firing_cancels', 'firing_held',
        'next_maintenance', 'failures', 'not_before')
    cron.firing, cron.next_maintenance, cron.not_before = nil, nil, nil
end

-- Returns whether an occurrence is due, or no check can read when it is.
local function is_due(cron)
    return cron.next_occurrence and (tonumber(cron.next_occurrence) or 0) <= now
end

local function record(key, history, name, outcome, firing, ended, released, reason)
    if has_wrong_type(key) then return set_deadline(CRONS, name, now + longest_pause) end
    local cron = load_cron(key)
    if not cron then return end
    if cron.deleted and outcome == 'unreadable' and has_damaged_runs(key, cron) then return remove(key, name) end
    -- Another process has delivered this firing before it was refused. So its run stays among the open runs.
    if outcome == 'refused' and cron.firing ~= firing then return end
    if (outcome == 'delivered' or outcome == 'refused') and cron.firing == firing then
        end_firing(key, history, cron, outcome, reason)
    elseif outcome == 'unreadable' or outcome == 'failed' and (cron.firing or '') == firing then
        local failures = increment(key, 'failures', 1)
        local pause = math.min(longest_pause, first_pause * 2 ^ math.min(failures - 1, 30))
        cron.not_before = format_ms(now + pause)
        redis.call('HSET', key, 'not_before', cron.not_before)
    elseif outcome == 'checked' and not cron.firing and not is_due(cron) then
        redis.call('HDEL', key, 'failures', 'not_before')
        cron.not_before = nil
    end
    if ended ~= '' then
        redis.call('HSET', key, 'open_runs', table.concat(list_without(cron.open_runs, ended), ' '))
    end
    local held_runs = list_without(cron.held_runs, ended .. ' ' .. released)
    if #held_runs > 0 then
        redis.call('HSET', key, 'held_runs', table.concat(held_runs, ' '))
        -- Held runs are checked once a second. The time is a whole second, so that a due occurrence is handled at the
        -- same check.
        if not cron.firing then
            cron.next_maintenance = format_ms(math.floor(now / 1000) * 1000 + 1000)
            redis.call('HSET', key, 'next_maintenance', cron.next_maintenance)
        end
    else
        if cron.held_runs then redis.call('HDEL', key, 'held_runs') end
        if not cron.firing and cron.next_maintenance then
            redis.call('HDEL', key, 'next_maintenance')
            cron.next_maintenance = nil
        end
        if cron.deleted and not cron.firing then return remove(key, name) end
    end
    schedule_check(CRONS, name, cron)
end

for i = 2, #KEYS, 2 do
    local at = FIRST + (i - 2) / 2 * ARGUMENTS
    record(KEYS[i], KEYS[i + 1], unpack(ARGV, at, at + ARGUMENTS - 1))
end
return 'ok'
