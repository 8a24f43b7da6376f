-- Queues whose limits have room again by the passing of time: their waiters are woken.
-- KEYS: 1 the shard's open.  ARGV: 1 limit.
-- Returns: {queues, now, ms of the next or -1}
--@include keys now last first_left
local queues = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, queue in ipairs(queues) do
    take_out(KEYS[1], queue)
    redis.call('SPUBLISH', WAKE, queue)
end
local following = first_left(KEYS[1])
settle()
return {#queues, now, following or -1}
