-- Transition: (nothing) | registered -> registered with a new definition.
-- Pre:  a new cron job does not exceed the maximum number. The cron job has the expected version.
-- Post: the new definition is stored. Earlier runs are kept. If schedule and `enabled` are unchanged, the next
--       occurrence is kept, so an application that registers its cron jobs at each start delays no occurrence.
-- Memory: deny-oom.
-- KEYS: 1 cron:<name>, 2 crons, 3 cron_names.
-- ARGV: 1 name, 2 maximum number of cron jobs, 3 expected version ('' any, '-' the cron job must not exist),
--       4 next occurrence (ms; '' none), 5 start of the first interval of @every (ms), 6 time of the clock change if
--       one skips an occurrence that would be before the next occurrence (ms; '' none), then names and values of the
--       definition's fields.
-- Returns: {'ok', 1 for a new cron job or 0, fields, now} | {'full'} | {'stale'} for another version
--          {'malformed'} when the key has another type
--@include keys now set_deadline cron_record
local CRON, CRONS, NAMES = KEYS[1], KEYS[2], KEYS[3]
local name, max_crons, expected = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local next_occurrence, anchor, gap = ARGV[4], ARGV[5], ARGV[6]
if has_wrong_type(CRON) then return {'malformed'} end
local cron = load_cron(CRON)
local new = not cron or cron.deleted ~= nil
local version = new and '-' or cron.version
if expected ~= '' and version ~= expected then return {'stale'} end
if new and redis.call('ZCARD', NAMES) >= max_crons then return {'full'} end
cron = cron or {}
local sent, definition = {}, {}
for i = 7, #ARGV, 2 do
    sent[ARGV[i]] = ARGV[i + 1]
    definition[#definition + 1] = ARGV[i]
    definition[#definition + 1] = ARGV[i + 1]
end
-- A registration repairs damaged times and runs: it writes those that it would keep.
local times = redis.call('HMGET', CRON, 'created', 'anchor', 'runs', 'last_run', 'next_occurrence')
local runs_are_damaged = has_damaged_runs(CRON, cron)
local damaged = not (times[1] and times[2])
for i = 1, 5 do
    local pattern = i == 3 and '^%-?%d+$' or '^%d+$' -- an earlier version has counted runs below 0
    damaged = damaged or times[i] and not (string.find(times[i], pattern) and #times[i] < 15)
end
redis.call('HSET', CRON, 'version', format_ms(math.max((tonumber(cron.version) or 0) + 1, now)), 'updated', now,
    unpack(definition))
if runs_are_damaged then
    redis.call('HDEL', CRON, 'open_runs', 'held_runs', 'firing', 'firing_occurrence', 'firing_job', 'firing_cancels',
        'firing_held', 'next_maintenance')
end
if new or damaged then
    redis.call('HDEL', CRON, 'deleted', 'last_run')
    redis.call('HSET', CRON, 'created', now, 'runs', 0)
end
if new or damaged or cron.expression ~= sent.expression or cron.timezone ~= sent.timezone
    or cron.enabled ~= sent.enabled then
    redis.call('HDEL', CRON, 'next_occurrence', 'gap', 'not_before', 'failures')
    redis.call('HSET', CRON, 'anchor', anchor)
    if next_occurrence ~= '' then redis.call('HSET', CRON, 'next_occurrence', next_occurrence) end
    if gap ~= '' then redis.call('HSET', CRON, 'gap', gap) end
end
redis.call('ZADD', NAMES, sent.enabled == '1' and 0 or 1, name)
schedule_check(CRONS, name, load_cron(CRON))
return {'ok', new and 1 or 0, redis.call('HGETALL', CRON), now}
