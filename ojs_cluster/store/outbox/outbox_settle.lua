-- One outbox entry was tried: 'done' removes it; 'failed' counts the attempt and sets the next try,
-- or parks the entry when it has had its attempts; 'away' (a shard did not answer) sets the next try
-- and counts nothing. Nothing is ever dropped.
-- Memory: allow-oom; adds 700 bytes, of which 500 say why an effect failed.
-- KEYS: 1 the shard's out, 2 ob, 3 parked.
-- ARGV: 1 number, 2 'done' | 'failed' | 'away' | 'again' (a parked entry is tried anew), 3 attempts allowed,
--       4 first pause ms, 5 longest pause ms, 6 why it failed.
-- Returns: 'done' | 'later' | 'parked' | 'gone'
--@include keys now set_deadline
local number, why = ARGV[1], 'e' .. ARGV[1]
local entry = redis.call('HGET', KEYS[2], number)
if not entry then return 'gone' end
if ARGV[2] == 'done' then
    redis.call('HDEL', KEYS[2], number, why)
    redis.call('ZREM', KEYS[1], number)
    redis.call('ZREM', KEYS[3], number)
    return 'done'
end
if ARGV[2] == 'away' then
    if redis.call('ZSCORE', KEYS[1], number) then set_deadline(KEYS[1], number, now + ARGV[4]) end
    return 'later'
end
local kind, attempts, payload = string.match(entry, '^(%S+) (%d+) (.*)$')
if ARGV[2] == 'again' then
    if not redis.call('ZSCORE', KEYS[3], number) then return 'gone' end
    redis.call('HSET', KEYS[2], number, kind .. ' 0 ' .. payload)
    redis.call('ZREM', KEYS[3], number)
    set_deadline(KEYS[1], number, now)
    return 'later'
end
attempts = attempts + 1
redis.call('HSET', KEYS[2], number, kind .. ' ' .. attempts .. ' ' .. payload, why, ARGV[6])
if attempts >= tonumber(ARGV[3]) then
    redis.call('ZREM', KEYS[1], number)
    redis.call('ZADD', KEYS[3], now, number)
    return 'parked'
end
local pause = math.min(ARGV[4] * 2 ^ (attempts - 1), tonumber(ARGV[5]))
redis.call('ZADD', KEYS[1], now + pause, number)
return 'later'
