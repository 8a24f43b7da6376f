-- Transition: (nothing) -> registered as it was when it was saved, for one cron job of a backup.
-- Pre:  there is none of this name, and room for one more.
-- Post: its next tick is the one it had, so ticks missed since then are made up for by one run.
-- Memory: deny-oom.
-- KEYS: 1 cron:<name>, 2 crons, 3 cronnames.
-- ARGV: 1 name, 2 most cron jobs, then names and values of its fields.
-- Returns: 'ok' | 'exists' | 'full'
--@include keys now set_deadline cron_record
local name = ARGV[1]
if load_cron() then return 'exists' end
if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[2]) then return 'full' end
for i = 3, #ARGV, 2 do redis.call('HSET', CRON, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', CRON, 'v', ms(now))
-- Runs that wait for those before them are looked after from the next second on.
if redis.call('HEXISTS', CRON, 'held') == 1 then
    redis.call('HSET', CRON, 'w', ms(math.floor(now / 1000) * 1000 + 1000))
end
redis.call('ZADD', KEYS[3], redis.call('HGET', CRON, 'on') == '1' and 0 or 1, name)
plan(name)
return 'ok'
