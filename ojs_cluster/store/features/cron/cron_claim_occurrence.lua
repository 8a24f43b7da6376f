-- Transition: occurrence due -> claimed with a firing | skipped | refused because no job can be made, for each of some
--       cron jobs on its own.
-- Pre:  next occurrence and version of the cron job are those for which the caller has decided. No firing is
--       undelivered.
-- Post: the cron job has its following occurrence, and history and events have the decision. The firing holds the job
--       of the present definition, under an id that never changes. The decisions are counted for metrics.
-- Memory: deny-oom.
-- KEYS: 1 crons, 2 events, 3 cron_counts, then for each cron job cron:<name> and cron_history:<name>.
-- ARGV: 1 events kept, 2 maximum length of the history, 3 time (ms) until another process may deliver a firing, then
--       for each cron job:
--       1 name, 2 version, 3 occurrence (ms; '' for a manual run, which keeps the next occurrence), 4 following
--       occurrence (ms; '' none), 5 time of a clock change that skips an occurrence before the following occurrence
--       (ms; '' none), 6 'fire' | 'skip' | 'refuse', 7 for fire the job id, for skip the id of the unfinished run, for
--       refuse the reason, 8 '1' to hold the job back or '', 9 ids of runs to cancel, 10 ids of runs that have ended.
-- Returns: {now, then for each cron job 'ok' | 'missing' | 'undelivered' | 'stale'}
--@include keys now append_event set_deadline cron_record
begin_events(ARGV[1])
local MAX_OPEN_RUNS, FIRST, ARGUMENTS = 100, 4, 10
local CRONS = KEYS[1]
local history_kept, delivery_ms = tonumber(ARGV[2]), tonumber(ARGV[3])
local reply, crons, counts = {now}, {}, {}

-- Adds an event to the stream and the webhook deliveries of the meta tag.
local function emit_cron(cron, kind, id, scheduled, ...)
    local more = {'c', cron.name, 'x', cron.expression, 'z', cron.timezone, 's', scheduled, ...}
    add_event(kind, id, cron.type, cron.queue, more)
end

-- Returns why a decision cannot be written, nil when it can.
local function refusal(cron, version, occurrence)
    if not cron or cron.deleted then return 'missing' end
    if cron.firing then return 'undelivered' end
    if cron.version ~= version or (occurrence ~= '' and cron.next_occurrence ~= occurrence) then return 'stale' end
end

-- Writes a decision. Its first write is one that Redis refuses at maxmemory. After a first HDEL, the later writes would
-- be accepted.
local function write(key, history, cron, occurrence, next_occurrence, gap, decision, id_or_reason, held, cancels, ended)
    local manual, skipped = occurrence == '', cron.gap
    if manual then occurrence = format_ms(now) end
    local open_runs = list_without(cron.open_runs, ended)
    local fields, gone = {}, {'failures', 'not_before'}
    local function set(name, value)
        fields[#fields + 1], fields[#fields + 2], cron[name] = name, value, value
    end
    local function set_or_remove(name, value)
        if value ~= '' then return set(name, value) end
        gone[#gone + 1], cron[name] = name, nil
    end
    if not manual then
        set_or_remove('next_occurrence', next_occurrence)
        set_or_remove('gap', gap)
        cron.not_before = nil
    end
    if decision == 'fire' then
        open_runs[#open_runs + 1] = id_or_reason
        -- The oldest run is forgotten, but never one that is still held back.
        for i = 1, #open_runs do
            if #open_runs <= MAX_OPEN_RUNS then break end
            if #list_without(open_runs[i], cron.held_runs or '') == 1 then table.remove(open_runs, i) break end
        end
        set('last_run', format_ms(now))
        set('firing', id_or_reason)
        set('firing_occurrence', occurrence)
        set('firing_job', redis.call('HGET', key, 'job') or '')
        set('firing_cancels', cancels)
        set('firing_held', held)
        set('next_maintenance', format_ms(now + delivery_ms))
        if held == '1' then
            set('held_runs', cron.held_runs and cron.held_runs .. ' ' .. id_or_reason or id_or_reason)
        end
    end
    set('open_runs', table.concat(open_runs, ' '))
    redis.call('HSET', key, unpack(fields))
    if not manual then redis.call('HDEL', key, unpack(gone)) end
    if not manual and skipped then emit_cron(cron, 'cron.skipped', '', skipped, 'w', 'dst_skip') end
    if decision == 'fire' then
        emit_cron(cron, 'cron.triggered', id_or_reason, occurrence, 'r', increment(key, 'runs', 1))
    else
        local refused = decision == 'refuse'
        emit_cron(cron, 'cron.skipped', refused and '' or id_or_reason, occurrence, 'w',
            refused and 'unusable_job' or 'overlap_skip')
    end
    local OUTCOMES = {skip = 'skip', refuse = 'error', fire = manual and 'manual' or 'fire'}
    -- A key of another type must not stop the script, which has already written.
    redis.pcall('LPUSH', history, table.concat({OUTCOMES[decision], occurrence, format_ms(now), id_or_reason}, ' '))
    redis.pcall('LTRIM', history, 0, history_kept - 1)
    schedule_check(CRONS, cron.name, cron)
    counts[OUTCOMES[decision]] = (counts[OUTCOMES[decision]] or 0) + 1
end

-- All are read before the first write, because a key of another type stops the script.
for i = 4, #KEYS, 2 do crons[i] = load_cron(KEYS[i]) or false end
for i = 4, #KEYS, 2 do
    local at, cron = FIRST + (i - 4) / 2 * ARGUMENTS, crons[i]
    local refused = refusal(cron, ARGV[at + 1], ARGV[at + 2])
    if not refused then
        cron.name = ARGV[at]
        write(KEYS[i], KEYS[i + 1], cron, unpack(ARGV, at + 2, at + 9))
    end
    reply[#reply + 1] = refused or 'ok'
end
for outcome, count in pairs(counts) do redis.pcall('HINCRBY', KEYS[3], outcome, count) end
return reply
