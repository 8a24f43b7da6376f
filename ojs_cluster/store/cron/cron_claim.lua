-- Transition: a tick is due -> it is decided: its job is owed, it is skipped, or it is refused
--       because its job can never be made.
-- Pre:  the next tick and the version are those that were decided upon; nothing is owed.
-- Post: the next tick is a later one; the decision stands in the history and in an event. What is
--       owed is the job as the definition had it now, under an id that never changes again.
-- Memory: deny-oom.
-- KEYS: 1 cron:<name>, 2 crons, 3 cronhist:<name>, 4 the meta tag's ev.
-- ARGV: 1 events kept, 2 name, 3 version, 4 tick ('' a run by hand: the next tick stays), 5 next
--       tick ('' none), 6 change of the clock before that ('' none), 7 'fire' | 'skip' | 'refuse', 8 job
--       id (fire), the run that is in the way (skip) or the reason (refuse), 9 '1' hold the job back or '', 10 ids of runs
--       to cancel, 11 ids of runs found ended, 12 entries of history kept, 13 ms until another
--       process may take the firing up.
-- Returns: {'ok', fields, now} | {'missing'} | {'owed'} | {'stale'}
--@include keys now set_deadline cron_record
local MOST_OPEN = 100
local name, cron, id = ARGV[2], load_cron(), ARGV[8]
if not cron or cron.gone then return {'missing'} end
if cron.owed then return {'owed'} end
if cron.v ~= ARGV[3] or (ARGV[4] ~= '' and cron.n ~= ARGV[4]) then return {'stale'} end
local by_hand = ARGV[4] == ''
local tick = by_hand and ms(now) or ARGV[4]
-- First, because Redis refuses it at maxmemory; it would let HDEL pass, and all that follows.
redis.call('HSET', CRON, 'open', cron.open or '')
if not by_hand then
    if cron.g then emit_cron('cron.skipped', cron, '', name, cron.g, 'w', 'dst_skip') end
    redis.call('HDEL', CRON, 'n', 'g', 'nb', 'f')
    if ARGV[5] ~= '' then redis.call('HSET', CRON, 'n', ARGV[5]) end
    if ARGV[6] ~= '' then redis.call('HSET', CRON, 'g', ARGV[6]) end
end
local open = without(cron.open, ARGV[11])
if ARGV[7] == 'fire' then
    open[#open + 1] = id
    -- The oldest is forgotten, but never one that is still to be let go.
    for i = 1, #open do
        if #open <= MOST_OPEN then break end
        if #without(open[i], cron.held or '') == 1 then table.remove(open, i) break end
    end
    local runs = increment(CRON, 'r', 1)
    redis.call('HSET', CRON, 'l', now, 'owed', id, 'ot', tick, 'ob', redis.call('HGET', CRON, 'j') or '', 'oc', ARGV[10],
        'oh', ARGV[9], 'w', now + tonumber(ARGV[13]))
    if ARGV[9] == '1' then
        redis.call('HSET', CRON, 'held', cron.held and cron.held .. ' ' .. id or id)
    end
    emit_cron('cron.triggered', cron, id, name, tick, 'r', runs)
else
    local refused = ARGV[7] == 'refuse'
    emit_cron('cron.skipped', cron, refused and '' or id, name, tick, 'w', refused and 'unusable_job' or 'overlap_skip')
end
redis.call('HSET', CRON, 'open', table.concat(open, ' '))
local LINES = {skip = 'skip', refuse = 'error', fire = by_hand and 'hand' or 'fire'}
redis.call('LPUSH', KEYS[3], table.concat({LINES[ARGV[7]], tick, ms(now), id}, ' '))
redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[12]) - 1)
plan(name)
return {'ok', redis.call('HGETALL', CRON), now}
