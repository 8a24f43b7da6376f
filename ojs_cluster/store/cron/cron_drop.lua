-- Transition: registered -> (nothing).
-- Post: no tick fires any more and no list shows it. A firing under way, and runs held back, are
--       brought to their end by the scheduler first; the hash goes with the last of them.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 cron:<name>, 2 crons, 3 cronnames, 4 cronhist:<name>.
-- ARGV: 1 name.
-- Returns: {'ok', fields before} | {'missing'}
--@include keys now set_deadline cron_record
local name, cron = ARGV[1], load_cron()
if not cron or cron.gone then return {'missing'} end
local before = redis.call('HGETALL', CRON)
redis.call('ZREM', KEYS[3], name)
redis.call('DEL', KEYS[4])
if cron.owed or cron.held then
    redis.call('HSET', CRON, 'gone', 1)
    redis.call('HDEL', CRON, 'n', 'g')
    plan(name)
else
    redis.call('DEL', CRON)
    redis.call('ZREM', CRONS, name)
end
return {'ok', before}
