-- A cron job. KEYS of every script that includes this: 1 its hash, 2 the index by next look.
-- Fields: x expression, z zone, o overlap policy, d description, j job to enqueue (JSON), q queue,
-- t type, on '1' | '0', c created, u updated, v version, n next tick, a anchor of @every, g the
-- change of the clock that swallowed a tick before n, l last run, r runs, open ids of runs not
-- known to have ended, held those of them that wait as pending for the ones before.
-- A firing under way: owed its job id, ot tick, ob job (JSON), oc ids to cancel first, oh hold it.
-- w ms of the next upkeep, f failures in a row, nb not before (ms), gone deleted but not done yet.
--@include long_lists
local CRON, CRONS = KEYS[1], KEYS[2]
local SMALL = {'x', 'z', 'q', 't', 'on', 'v', 'n', 'open', 'held', 'owed', 'w', 'nb', 'gone', 'g'}

-- All but the job, the debt and the description, which may be large.
local function load_cron()
    if redis.call('EXISTS', CRON) == 0 then return nil end
    local cron = {}
    for i, value in ipairs(redis.call('HMGET', CRON, unpack(SMALL))) do cron[SMALL[i]] = value or nil end
    return cron
end

-- The ids in `list` that are not in `out`.
local function without(list, out)
    local drop, kept = {}, {}
    for id in string.gmatch(out, '%S+') do drop[id] = true end
    for id in string.gmatch(list or '', '%S+') do
        if not drop[id] then kept[#kept + 1] = id end
    end
    return kept
end

local function ms(value) return string.format('%.0f', value) end

-- Writes what depends on the rest: when the scheduler must look again.
local function plan(name)
    local cron = load_cron()
    local at = tonumber(cron.n)
    local upkeep = tonumber(cron.w)
    -- A tick waits for the firing that is under way, so a shard that is away owes one job, not one
    -- for each tick of its absence.
    if cron.owed then at = upkeep
    elseif upkeep and (not at or upkeep < at) then at = upkeep end
    if at and cron.nb then at = math.max(at, tonumber(cron.nb) or 0) end
    -- A next tick that is not a number: it fails again at each check, and is logged.
    if not at and cron.n then at = tonumber(cron.nb) end
    if at then set_deadline(CRONS, name, at) else redis.call('ZREM', CRONS, name) end
end

-- One line in the event stream of the meta tag.
local function emit_cron(kind, cron, id, name, scheduled, ...)
    local kept = tonumber(ARGV[1])
    if kept == 0 then return end
    redis.call('XADD', EVENTS, 'MAXLEN', '~', kept, '*', 't', kind, 'j', id, 'y', cron.t,
        'q', cron.q, 'c', name, 'x', cron.x, 'z', cron.z, 's', scheduled, ...)
end
