-- What became of a cron job's firing and of its earlier runs.
-- 'delivered': the job that was owed is stored -> nothing is owed.
-- 'refused':   its job can never be made -> nothing is owed, and the history says why in the place where
--              it said that the tick fired.
-- 'failed':    it could not be stored, or the tick not be decided -> tried again after a pause.
-- 'unreadable': it could not even be read -> as failed, whatever is owed.
-- 'swept':     runs were found ended, and held ones let go.
-- Memory: allow-oom; adds 500 bytes.
-- KEYS: 1 cron:<name>, 2 crons, 3 cronhist:<name>.
-- ARGV: 1 name, 2 what, 3 id that was owed ('' none), 4 ids of runs ended, 5 ids of runs let go,
--       6 first and 7 longest pause (ms), 8 why it was refused.
-- Returns: 'ok' | 'missing'
--@include keys now set_deadline cron_record
local name, cron = ARGV[1], load_cron()
if not cron then return 'missing' end
-- Another process has settled it: its run may be there, and stays among the open ones.
if ARGV[2] == 'refused' and cron.owed ~= ARGV[3] then return 'ok' end
if (ARGV[2] == 'delivered' or ARGV[2] == 'refused') and cron.owed == ARGV[3] then
    if ARGV[2] == 'refused' then
        for i, line in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
            local at, id = string.match(line, '^%a+ (%d+ %d+) (%S+)$')
            if id == cron.owed then
                redis.call('LSET', KEYS[3], i - 1, 'error ' .. at .. ' ' .. ARGV[8])
                break
            end
        end
        increment(CRON, 'r', -1)
    end
    redis.call('HDEL', CRON, 'owed', 'ot', 'ob', 'oc', 'oh', 'w', 'f', 'nb')
    cron.owed = nil
elseif ARGV[2] == 'unreadable' or ARGV[2] == 'failed' and (cron.owed or '') == ARGV[3] then
    local failures = increment(CRON, 'f', 1)
    local pause = math.min(tonumber(ARGV[7]), tonumber(ARGV[6]) * 2 ^ math.min(failures - 1, 30))
    redis.call('HSET', CRON, 'nb', ms(now + pause))
end
local held = without(cron.held, ARGV[4] .. ' ' .. ARGV[5])
redis.call('HSET', CRON, 'open', table.concat(without(cron.open, ARGV[4]), ' '))
if #held > 0 then
    redis.call('HSET', CRON, 'held', table.concat(held, ' '))
    -- On the whole second, as ticks are: the index is looked at once a second at most.
    if not cron.owed then redis.call('HSET', CRON, 'w', ms(math.floor(now / 1000) * 1000 + 1000)) end
else
    redis.call('HDEL', CRON, 'held')
    if not cron.owed then redis.call('HDEL', CRON, 'w') end
    if cron.gone and not cron.owed then
        redis.call('DEL', CRON)
        redis.call('ZREM', CRONS, name)
        return 'ok'
    end
end
plan(name)
return 'ok'
