-- Transition: (nothing) | registered -> registered with this definition.
-- Pre:  there is room for one more, and the version is the expected one.
-- Post: the definition is this one; runs so far are kept, and so is the next tick when neither the
--       schedule nor `on` changed: an application that registers at each start delays nothing.
-- Memory: deny-oom.
-- KEYS: 1 cron:<name>, 2 crons, 3 cronnames.
-- ARGV: 1 name, 2 most cron jobs, 3 version expected ('' any, '-' none), 4 next tick ('' none), 5 anchor,
--       6 change of the clock before it ('' none), then names and values of x z o d j q t on.
-- Returns: {'ok', 1 new | 0, fields, now} | {'full'} | {'stale'}
--@include keys now set_deadline cron_record
local name, cron = ARGV[1], load_cron()
local new = not cron or cron.gone ~= nil
local version = new and '-' or cron.v
if ARGV[3] ~= '' and version ~= ARGV[3] then return {'stale'} end
if new and redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[2]) then return {'full'} end
cron = cron or {}
local sent, write = {}, {}
for i = 7, #ARGV, 2 do
    sent[ARGV[i]] = ARGV[i + 1]
    write[#write + 1] = ARGV[i]
    write[#write + 1] = ARGV[i + 1]
end
redis.call('HSET', CRON, 'v', ms(math.max((tonumber(cron.v) or 0) + 1, now)), 'u', now, unpack(write))
if new then
    redis.call('HDEL', CRON, 'gone', 'l')
    redis.call('HSET', CRON, 'c', now, 'r', 0)
end
if new or cron.x ~= sent.x or cron.z ~= sent.z or cron.on ~= sent.on then
    redis.call('HDEL', CRON, 'n', 'g', 'nb', 'f')
    redis.call('HSET', CRON, 'a', ARGV[5])
    if ARGV[4] ~= '' then redis.call('HSET', CRON, 'n', ARGV[4]) end
    if ARGV[6] ~= '' then redis.call('HSET', CRON, 'g', ARGV[6]) end
end
redis.call('ZADD', KEYS[3], sent.on == '1' and 0 or 1, name)
plan(name)
return {'ok', new and 1 or 0, redis.call('HGETALL', CRON), now}
