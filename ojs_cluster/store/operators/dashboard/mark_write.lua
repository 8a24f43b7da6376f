-- Adds a mark, or removes one.
-- Post: marks has at most ARGV[5] marks, the newest ones, and none older than ARGV[4] ms. It expires with its
--       newest mark. A mark that is stored already keeps its place.
-- Memory: allow-oom; a mark has up to 1.5 KiB, and there are at most 200.
-- KEYS: 1 marks (scored by the ms of the mark).
-- ARGV: 1 'add' or 'remove', 2 the mark, as JSON, 3 its time (ms), 4 ms for which marks are kept, 5 maximum number.
-- Returns: 1 when the mark is (was, for 'remove') stored, otherwise 0
--@include now
local marks, action, mark = KEYS[1], ARGV[1], ARGV[2]
local kept_ms, maximum = tonumber(ARGV[4]), tonumber(ARGV[5])
if action == 'remove' then return redis.call('ZREM', marks, mark) end
redis.call('ZADD', marks, 'NX', ARGV[3], mark)
redis.call('ZREMRANGEBYSCORE', marks, '-inf', '(' .. string.format('%.0f', now - kept_ms))
redis.call('ZREMRANGEBYRANK', marks, 0, -maximum - 1)
local newest = redis.call('ZRANGE', marks, -1, -1, 'WITHSCORES')[2]
if newest then redis.call('PEXPIREAT', marks, string.format('%.0f', tonumber(newest) + kept_ms)) end
return redis.call('ZSCORE', marks, mark) and 1 or 0
