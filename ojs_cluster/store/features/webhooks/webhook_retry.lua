-- Transition: dead -> pending, for one delivery of a webhook that an operator retries.
-- Post: the delivery is due, and has all its attempts again.
-- Memory: allow-oom; adds 200 bytes.
-- KEYS: 1 webhook_pending of the subscription, 2 webhook_deliveries, 3 webhook_dead, 4 webhook_due.
-- ARGV: 1 subscription, 2 number.
-- Returns: 'ok' | 'not_dead'
--@include keys now set_deadline
local PENDING_DELIVERIES, DELIVERIES, DEAD_DELIVERIES, DUE_SUBSCRIPTIONS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, number = ARGV[1], ARGV[2]
if not redis.call('ZSCORE', DEAD_DELIVERIES, number) then return 'not_dead' end
redis.call('HDEL', DELIVERIES, 'a' .. number) -- its attempts (webhook_record.lua)
redis.call('ZADD', PENDING_DELIVERIES, now, number)
set_deadline(DUE_SUBSCRIPTIONS, id, now)
redis.call('ZREM', DEAD_DELIVERIES, number)
return 'ok'
