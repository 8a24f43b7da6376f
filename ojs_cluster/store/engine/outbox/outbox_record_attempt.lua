-- Transition: undelivered -> undelivered | dead letter, for one outbox entry after an attempt that did not deliver it;
--       dead letter -> undelivered, for 'retry'.
-- Post: 'failed':      the attempt is counted, and the next attempt is scheduled. After the maximum number of
--                      attempts the entry is a dead letter.
--       'unreachable': a shard did not answer. The next attempt is scheduled, and this attempt is not counted.
--       'retry':       the dead letter gets all its attempts again.
-- Memory: allow-oom; adds 700 bytes, of which 500 say why an effect failed.
-- KEYS: 1 the index of the entry: outbox_due or outbox_waiting, 2 outbox, 3 outbox_dead_letters.
-- ARGV: 1 number, 2 'failed' | 'unreachable' | 'retry', 3 maximum number of attempts, 4 first pause
--       (ms), 5 longest pause (ms), 6 error of the attempt.
-- Returns: 'later' | 'dead_letter' | 'gone'
--@include keys now set_deadline
local INDEX = KEYS[1] -- OUTBOX and OUTBOX_DEAD_LETTERS are named by keys.lua
local number, outcome, max_attempts = ARGV[1], ARGV[2], tonumber(ARGV[3])
local first_pause, longest_pause, error = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local entry = redis.call('HGET', OUTBOX, number)
if not entry then return 'gone' end
if outcome == 'unreachable' then
    if redis.call('ZSCORE', INDEX, number) then set_deadline(INDEX, number, now + first_pause) end
    return 'later'
end
local kind, attempts, payload = string.match(entry, '^(%S+) (%d+) (.*)$')
if outcome == 'retry' then
    if not redis.call('ZSCORE', OUTBOX_DEAD_LETTERS, number) then return 'gone' end
    redis.call('HSET', OUTBOX, number, kind .. ' 0 ' .. payload)
    redis.call('ZREM', OUTBOX_DEAD_LETTERS, number)
    set_deadline(INDEX, number, now)
    return 'later'
end
attempts = attempts + 1
redis.call('HSET', OUTBOX, number, kind .. ' ' .. attempts .. ' ' .. payload, 'e' .. number, error)
if attempts >= max_attempts then
    redis.call('ZREM', INDEX, number)
    redis.call('ZADD', OUTBOX_DEAD_LETTERS, now, number)
    return 'dead_letter'
end
local pause = math.min(first_pause * 2 ^ (attempts - 1), longest_pause)
redis.call('ZADD', INDEX, now + pause, number)
return 'later'
