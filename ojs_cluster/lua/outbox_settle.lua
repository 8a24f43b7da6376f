-- One outbox entry was tried: 'done' removes it; 'failed' counts the attempt and sets the next try,
-- or parks the entry when it has had its attempts. Nothing is ever dropped.
-- KEYS: 1 the shard's out, 2 ob, 3 parked.
-- ARGV: 1 number, 2 'done' | 'failed' | 'again' (a parked entry is tried anew), 3 attempts allowed,
--       4 first pause ms, 5 longest pause ms.
-- Returns: 'done' | 'later' | 'parked' | 'gone'
--@include now
local entry = redis.call('HGET', KEYS[2], ARGV[1])
if not entry then return 'gone' end
if ARGV[2] == 'done' then
    redis.call('HDEL', KEYS[2], ARGV[1])
    redis.call('ZREM', KEYS[1], ARGV[1])
    redis.call('ZREM', KEYS[3], ARGV[1])
    return 'done'
end
local kind, attempts, payload = string.match(entry, '^(%S+) (%d+) (.*)$')
attempts = ARGV[2] == 'again' and 0 or attempts + 1
redis.call('HSET', KEYS[2], ARGV[1], kind .. ' ' .. attempts .. ' ' .. payload)
if ARGV[2] == 'again' then
    redis.call('ZREM', KEYS[3], ARGV[1])
    redis.call('ZADD', KEYS[1], now, ARGV[1])
    return 'later'
end
if attempts >= tonumber(ARGV[3]) then
    redis.call('ZREM', KEYS[1], ARGV[1])
    redis.call('ZADD', KEYS[3], now, ARGV[1])
    return 'parked'
end
local pause = math.min(ARGV[4] * 2 ^ (attempts - 1), tonumber(ARGV[5]))
redis.call('ZADD', KEYS[1], now + pause, ARGV[1])
return 'later'
