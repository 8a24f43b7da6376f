-- Transition: running | stopping -> the same with new progress, or ended, for a bulk operation.
-- Pre:  no other process has updated the operation since the caller read it.
-- Post: the fields are stored, and the version is one higher. An ended operation has neither ids nor position, and the
--       time of its removal is set.
-- Memory: allow-oom; adds 50 KiB.
-- KEYS: 1 bulk:<id>, 2 bulk_running, 3 bulk_ended.
-- ARGV: 1 id, 2 expected version ('' any, for the end of a damaged operation), 3 time until the scheduler continues
--       it (ms; 0 also wakes the scheduler), or '' to end it, 4 retention of ended operations (ms), then names and
--       values of fields.
-- Returns: {'ok', version, now, state, '' if it is damaged} | {'stale'}
--@include keys now
local operation_key, RUNNING, ENDED = KEYS[1], KEYS[2], KEYS[3]
local id, expected, delay_ms, retention_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local version, ended = unpack(redis.call('HMGET', operation_key, 'version', 'ended'))
-- A damaged operation may have lost its version; it must still be possible to end it.
if not version and redis.call('EXISTS', operation_key) == 0 or ended then return {'stale'} end
if expected ~= '' and version ~= expected then return {'stale'} end
local following = string.format('%.0f', (tonumber(version) or 0) + 1)
redis.call('HSET', operation_key, 'version', following, unpack(ARGV, 5))
if delay_ms ~= '' then
    redis.call('ZADD', RUNNING, now + delay_ms, id)
    if delay_ms == '0' then redis.call('SPUBLISH', SCHEDULE_CHANNEL, string.format('%.0f', now)) end
    return {'ok', following, now, redis.call('HGET', operation_key, 'state') or ''}
end
redis.call('HSET', operation_key, 'ended', now)
redis.call('HDEL', operation_key, 'ids', 'slice', 'position')
redis.call('ZADD', ENDED, now + retention_ms, id)
redis.call('ZREM', RUNNING, id)
return {'ok', following, now, redis.call('HGET', operation_key, 'state') or ''}
