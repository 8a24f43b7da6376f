-- A cron job. KEYS of every script that includes this: 1 cron:<name>, 2 crons (by the ms of the next check).
-- Definition: expression, timezone, overlap_policy, description, job (JSON), queue, type, enabled '1' | '0',
--   created, updated, version, anchor (of @every).
-- Schedule: next_tick, gap (the clock change that removed a tick before it), last_run, runs.
-- Earlier runs: open_runs (ids of runs not known to have ended), held_runs (those of them that wait as
--   pending for the runs before them).
-- A firing that is claimed and not delivered: firing (its job id), firing_tick, firing_job (JSON),
--   firing_cancels (ids of runs to cancel first), firing_held ('1' to hold it back).
-- Checks: next_maintenance (ms), failures (in a row), not_before (ms), deleted (waits for its last firing).
--@include long_lists
local CRON, CRONS = KEYS[1], KEYS[2]
local SMALL_FIELDS = {'expression', 'timezone', 'queue', 'type', 'enabled', 'version', 'next_tick', 'open_runs',
    'held_runs', 'firing', 'next_maintenance', 'not_before', 'deleted', 'gap'}

-- Returns all fields but the jobs and the description, which may be large.
local function load_cron()
    if redis.call('EXISTS', CRON) == 0 then return nil end
    local cron = {}
    for i, value in ipairs(redis.call('HMGET', CRON, unpack(SMALL_FIELDS))) do
        cron[SMALL_FIELDS[i]] = value or nil
    end
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

-- Schedules the next check of a cron job from its fields.
local function schedule_check(name)
    local cron = load_cron()
    local at, maintenance = tonumber(cron.next_tick), tonumber(cron.next_maintenance)
    -- A tick waits for a firing that is not delivered. So an unreachable shard causes one late job, not
    -- one for each tick of the outage.
    if cron.firing then at = maintenance
    elseif maintenance and (not at or maintenance < at) then at = maintenance end
    if at and cron.not_before then at = math.max(at, tonumber(cron.not_before) or 0) end
    -- A next tick that is not a number fails at each check, and is logged.
    if not at and cron.next_tick then at = tonumber(cron.not_before) end
    if at then set_deadline(CRONS, name, at) else redis.call('ZREM', CRONS, name) end
end

-- Adds an entry to the event stream of the meta tag.
local function emit_cron(kind, cron, id, name, scheduled, ...)
    local kept = tonumber(ARGV[1])
    if kept == 0 then return end
    redis.call('XADD', EVENTS, 'MAXLEN', '~', kept, '*', 't', kind, 'j', id, 'y', cron.type,
        'q', cron.queue, 'c', name, 'x', cron.expression, 'z', cron.timezone, 's', scheduled, ...)
end
