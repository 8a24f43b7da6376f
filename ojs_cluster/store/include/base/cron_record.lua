-- A cron job. `key` is cron:<name>, and `crons` has the names by the time of the next check in ms.
-- An occurrence is a time at which the cron job is due. A run is the job of an occurrence. A firing is a run that is
-- not stored yet.
-- Definition: expression, timezone, overlap_policy, description, job (JSON), queue, type, enabled '1' | '0',
--   created, updated, version, anchor (ms from which @every counts).
-- Schedule: next_occurrence, gap (time in ms of a clock change that skips an occurrence before
--   next_occurrence), last_run, runs.
-- Earlier runs: open_runs (ids of runs not known to have ended), held_runs (those open_runs that are pending
--   until the runs before them end).
-- The firing: firing (its job id), firing_occurrence, firing_job (JSON), firing_cancels (ids of runs to cancel
--   before the firing is stored), firing_held ('1' when it is stored as a pending job).
-- Checks: next_maintenance (ms), failures (number of failed checks in a row), not_before (ms), deleted (set
--   when the cron job is to be removed after its firing).
--@include long_lists
local SMALL_FIELDS = {'expression', 'timezone', 'queue', 'type', 'enabled', 'version', 'next_occurrence', 'open_runs',
    'held_runs', 'firing', 'next_maintenance', 'not_before', 'deleted', 'gap'}

-- Returns whether the key of the cron job exists and has another type than a hash.
local function has_wrong_type(key)
    local kind = redis.call('TYPE', key).ok
    return kind ~= 'hash' and kind ~= 'none'
end

-- Returns whether no check can finish the firing and the held runs, because one of their fields is missing or damaged.
local function has_damaged_runs(key, cron)
    if not (cron.firing or cron.held_runs) then return false end
    local occurrence, cancels, held = unpack(redis.call('HMGET', key, 'firing_occurrence', 'firing_cancels',
        'firing_held'))
    local sound = string.find(cron.next_maintenance or '', '^%d+$') and #cron.next_maintenance < 15
    for _, ids in ipairs({cron.firing or '', cancels or '', cron.open_runs or '', cron.held_runs or ''}) do
        sound = sound and not string.find(ids, '[^%w%- ]')
    end
    if cron.firing then
        sound = sound and string.find(occurrence or '', '^%d+$') and #occurrence < 15 and cancels and held
            and redis.call('HEXISTS', key, 'firing_job') == 1
    end
    return not sound
end

-- Returns the SMALL_FIELDS, or nil when there is no cron job. Other fields may be large, so they are not read.
local function load_cron(key)
    local cron = {}
    for i, value in ipairs(redis.call('HMGET', key, unpack(SMALL_FIELDS))) do
        cron[SMALL_FIELDS[i]] = value or nil
    end
    if not next(cron) and redis.call('EXISTS', key) == 0 then return nil end
    return cron
end

-- Returns the ids in `list` that are not in `removed`.
local function list_without(list, removed)
    local drop, kept = {}, {}
    for id in string.gmatch(removed, '%S+') do drop[id] = true end
    for id in string.gmatch(list or '', '%S+') do
        if not drop[id] then kept[#kept + 1] = id end
    end
    return kept
end

local function format_ms(value) return string.format('%.0f', value) end

-- Schedules the next check of a cron job, whose SMALL_FIELDS are those of `cron`.
local function schedule_check(crons, name, cron)
    local at, maintenance = tonumber(cron.next_occurrence), tonumber(cron.next_maintenance)
    -- While a firing is not stored, its job's shard is unreachable, and later occurrences wait. So the outage of a
    -- shard causes one late job, and not one for each occurrence.
    if cron.firing then at = maintenance
    elseif maintenance and (not at or maintenance < at) then at = maintenance end
    if at and cron.not_before then at = math.max(at, tonumber(cron.not_before) or 0) end
    -- A malformed next_occurrence makes each check fail. The scheduler logs the failure and tries again later.
    if not at and cron.next_occurrence then at = tonumber(cron.not_before) end
    if at then set_deadline(crons, name, at) else redis.call('ZREM', crons, name) end
end
