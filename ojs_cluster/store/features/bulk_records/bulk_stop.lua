-- Transition: running -> stopping, for a bulk operation. Its current slice is finished first.
-- Post: the scheduler continues the operation at once. A deletion that no process has updated waits until the request
--       that has created it cannot begin the drain any more: its end must come after the drain. A repetition changes
--       nothing.
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 bulk:<id>, 2 bulk_running.
-- ARGV: 1 id, 2 ms for which a deletion belongs to its request.
-- Returns: {'ok', fields} | {'missing'} | {'conflict', state} for an ended operation
--@include keys now set_deadline
local operation_key, RUNNING, id = KEYS[1], KEYS[2], ARGV[1]
local state, ended, version, created, deletion =
    unpack(redis.call('HMGET', operation_key, 'state', 'ended', 'version', 'created', 'deletion'))
if not state then return {'missing'} end
if ended then return {'conflict', state} end
redis.call('HSET', operation_key, 'state', 'stopping')
local at = now
if deletion and version == '0' then at = math.max(now, (tonumber(created) or 0) + ARGV[2]) end
set_deadline(RUNNING, id, at)
return {'ok', redis.call('HGETALL', operation_key)}
