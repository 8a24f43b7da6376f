-- Transition: running -> stopping, for a bulk operation. Its current slice is finished first.
-- Post: the scheduler continues the operation at once. A repetition changes nothing.
-- Memory: allow-oom; adds 100 bytes.
-- KEYS: 1 bulk:<id>, 2 bulk_running.
-- ARGV: 1 id.
-- Returns: {'ok', fields} | {'missing'} | {'conflict', state} for an ended operation
--@include keys now set_deadline
local operation_key, RUNNING, id = KEYS[1], KEYS[2], ARGV[1]
local state, ended = unpack(redis.call('HMGET', operation_key, 'state', 'ended'))
if not state then return {'missing'} end
if ended then return {'conflict', state} end
redis.call('HSET', operation_key, 'state', 'stopping')
set_deadline(RUNNING, id, now)
return {'ok', redis.call('HGETALL', operation_key)}
