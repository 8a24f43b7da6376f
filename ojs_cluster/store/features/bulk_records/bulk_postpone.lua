-- Transition: running | stopping -> the same, later, for a bulk operation whose step has failed.
-- Pre:  no other process has updated the operation since the caller read or wrote it last.
-- Post: the failure is counted, and the scheduler continues the operation after the given time. The version stays:
--       a failure is no progress. A repetition after a lost reply counts the failure twice.
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 bulk:<id>, 2 bulk_running.
-- ARGV: 1 id, 2 expected version ('' any, for a caller that could not read the operation), 3 field that counts the
--       failures, 4 time until the scheduler continues it (ms).
-- Returns: number of counted failures, or -1 when the operation has ended or another version
--@include now
local operation_key, RUNNING, id, expected, counter = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local version, ended, count = unpack(redis.call('HMGET', operation_key, 'version', 'ended', counter))
if not version and redis.call('EXISTS', operation_key) == 0 or ended then return -1 end
if expected ~= '' and version ~= expected then return -1 end
count = #(count or '') < 10 and tonumber(string.match(count or '', '^%d+$')) or 0 -- it may be damaged
count = count + 1
redis.call('HSET', operation_key, counter, count)
redis.call('ZADD', RUNNING, now + ARGV[4], id)
return count
