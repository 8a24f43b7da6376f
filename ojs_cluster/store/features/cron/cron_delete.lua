-- Transition: registered -> (nothing).
-- Post: no further occurrence fires, and no list shows the cron job. If a firing is undelivered or runs are held
--       back, the hash stays until the scheduler has finished them (cron_record_outcome.lua).
--       A key of another type is removed, and so are damaged runs, which no check can finish.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 cron:<name>, 2 crons, 3 cron_names, 4 cron_history:<name>.
-- ARGV: 1 name.
-- Returns: {'ok', fields before; none for a key of another type} | {'missing'}
--@include keys now set_deadline cron_record
local CRON, CRONS, NAMES, HISTORY = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name = ARGV[1]
if has_wrong_type(CRON) then
    redis.call('ZREM', NAMES, name)
    redis.call('ZREM', CRONS, name)
    redis.call('UNLINK', CRON, HISTORY)
    return {'ok', {}}
end
local cron = load_cron(CRON)
if not cron or cron.deleted then return {'missing'} end
local is_unfinished = (cron.firing or cron.held_runs) and not has_damaged_runs(CRON, cron)
local before = redis.call('HGETALL', CRON)
redis.call('ZREM', NAMES, name)
redis.call('DEL', HISTORY)
if is_unfinished then
    redis.call('HSET', CRON, 'deleted', 1)
    redis.call('HDEL', CRON, 'next_occurrence', 'gap')
    schedule_check(CRONS, name, load_cron(CRON))
else
    redis.call('DEL', CRON)
    redis.call('ZREM', CRONS, name)
end
return {'ok', before}
