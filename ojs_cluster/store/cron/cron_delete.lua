-- Transition: registered -> (nothing).
-- Post: no further occurrence fires, and no list shows the cron job. If a firing is undelivered or runs are held
--       back, the hash stays until the scheduler has finished them (cron_record_outcome.lua).
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 cron:<name>, 2 crons, 3 cron_names, 4 cron_history:<name>.
-- ARGV: 1 name.
-- Returns: {'ok', fields before} | {'missing'}
--@include keys now set_deadline cron_record
local NAMES, HISTORY = KEYS[3], KEYS[4]
local name, cron = ARGV[1], load_cron()
if not cron or cron.deleted then return {'missing'} end
local before = redis.call('HGETALL', CRON)
redis.call('ZREM', NAMES, name)
redis.call('DEL', HISTORY)
if cron.firing or cron.held_runs then
    redis.call('HSET', CRON, 'deleted', 1)
    redis.call('HDEL', CRON, 'next_occurrence', 'gap')
    schedule_check(name)
else
    redis.call('DEL', CRON)
    redis.call('ZREM', CRONS, name)
end
return {'ok', before}
