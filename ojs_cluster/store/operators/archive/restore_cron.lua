-- Transition: (nothing) -> registered, for one cron job of an archive.
-- Pre:  no cron job has this name, and the number of cron jobs is below its maximum.
-- Post: the cron job has the archived fields, and also the archived next occurrence. If that is in the past, the cron
--       job fires once for all occurrences that were missed.
-- Memory: deny-oom.
-- KEYS: 1 cron, 2 crons, 3 cron_names.
-- ARGV: 1 name, 2 maximum number of cron jobs, 3.. names and values of the fields.
-- Returns: 'ok' | 'exists' | 'full'
--@include keys now set_deadline cron_record
local CRON, CRONS = KEYS[1], KEYS[2]
local cron_names, name, max_crons = KEYS[3], ARGV[1], tonumber(ARGV[2])
if load_cron(CRON) then return 'exists' end
if redis.call('ZCARD', cron_names) >= max_crons then return 'full' end
for i = 3, #ARGV, 2 do redis.call('HSET', CRON, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', CRON, 'version', format_ms(now))
-- Held runs wait for an earlier run to end; the scheduler checks them from the next second on.
if redis.call('HEXISTS', CRON, 'held_runs') == 1 then
    redis.call('HSET', CRON, 'next_maintenance', format_ms(math.floor(now / 1000) * 1000 + 1000))
end
-- The score in cron_names: 0 for enabled, 1 for disabled cron jobs.
redis.call('ZADD', cron_names, redis.call('HGET', CRON, 'enabled') == '1' and 0 or 1, name)
schedule_check(CRONS, name, load_cron(CRON))
return 'ok'
