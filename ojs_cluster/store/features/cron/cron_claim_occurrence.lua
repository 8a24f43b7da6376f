-- Transition: occurrence due -> claimed with a firing | skipped | refused because no job can be made.
-- Pre:  next occurrence and version of the cron job are those for which the caller has decided. No firing is
--       undelivered.
-- Post: the cron job has its following occurrence, and history and events have the decision. The firing holds the job
--       of the present definition, under an id that never changes.
-- Memory: deny-oom.
-- KEYS: 1 cron:<name>, 2 crons, 3 cron_history:<name>, 4 events.
-- ARGV: 1 events kept, 2 name, 3 version, 4 occurrence (ms; '' for a manual run, which keeps the next occurrence),
--       5 following occurrence (ms; '' none), 6 time of a clock change that skips an occurrence before the following
--       occurrence (ms; '' none), 7 'fire' | 'skip' | 'refuse', 8 for fire the job id, for skip the id of the
--       unfinished run, for refuse the reason, 9 '1' to hold the job back or '', 10 ids of runs to cancel,
--       11 ids of runs that have ended, 12 maximum length of the history, 13 time (ms) until another process
--       may deliver the firing.
-- Returns: {'ok', fields, now} | {'missing'} | {'undelivered'} | {'stale'}
--@include keys now append_event set_deadline cron_record
local MAX_OPEN_RUNS = 100
local HISTORY = KEYS[3]
local name, version, occurrence, next_occurrence, gap = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local decision, id_or_reason, held, cancels, ended = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local history_kept, delivery_ms = tonumber(ARGV[12]), tonumber(ARGV[13])
local cron = load_cron()
if not cron or cron.deleted then return {'missing'} end
if cron.firing then return {'undelivered'} end
if cron.version ~= version or (occurrence ~= '' and cron.next_occurrence ~= occurrence) then return {'stale'} end
local manual = occurrence == ''
if manual then occurrence = format_ms(now) end

-- Adds an event to the stream and the webhook deliveries of the meta tag.
local function emit_cron(kind, id, scheduled, ...)
    local more = {'c', name, 'x', cron.expression, 'z', cron.timezone, 's', scheduled, ...}
    add_event(kind, id, cron.type, cron.queue, more)
end

-- The first write must be one that Redis refuses at maxmemory. After a first HDEL, the later writes would be
-- accepted.
redis.call('HSET', CRON, 'open_runs', cron.open_runs or '')
if not manual then
    if cron.gap then emit_cron('cron.skipped', '', cron.gap, 'w', 'dst_skip') end
    redis.call('HDEL', CRON, 'next_occurrence', 'gap', 'not_before', 'failures')
    if next_occurrence ~= '' then redis.call('HSET', CRON, 'next_occurrence', next_occurrence) end
    if gap ~= '' then redis.call('HSET', CRON, 'gap', gap) end
end
local open_runs = list_without(cron.open_runs, ended)
if decision == 'fire' then
    open_runs[#open_runs + 1] = id_or_reason
    -- The oldest run is forgotten, but never one that is still held back.
    for i = 1, #open_runs do
        if #open_runs <= MAX_OPEN_RUNS then break end
        if #list_without(open_runs[i], cron.held_runs or '') == 1 then table.remove(open_runs, i) break end
    end
    local runs = increment(CRON, 'runs', 1)
    redis.call('HSET', CRON, 'last_run', now, 'firing', id_or_reason, 'firing_occurrence', occurrence,
        'firing_job', redis.call('HGET', CRON, 'job') or '', 'firing_cancels', cancels, 'firing_held', held,
        'next_maintenance', now + delivery_ms)
    if held == '1' then
        redis.call('HSET', CRON, 'held_runs',
            cron.held_runs and cron.held_runs .. ' ' .. id_or_reason or id_or_reason)
    end
    emit_cron('cron.triggered', id_or_reason, occurrence, 'r', runs)
else
    local refused = decision == 'refuse'
    emit_cron('cron.skipped', refused and '' or id_or_reason, occurrence, 'w',
        refused and 'unusable_job' or 'overlap_skip')
end
redis.call('HSET', CRON, 'open_runs', table.concat(open_runs, ' '))
local OUTCOMES = {skip = 'skip', refuse = 'error', fire = manual and 'manual' or 'fire'}
-- A key of another type must not stop the script, which has already written.
redis.pcall('LPUSH', HISTORY, table.concat({OUTCOMES[decision], occurrence, format_ms(now), id_or_reason}, ' '))
redis.pcall('LTRIM', HISTORY, 0, history_kept - 1)
schedule_check(name)
return {'ok', redis.call('HGETALL', CRON), now}
