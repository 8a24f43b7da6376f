-- Transition of a queue: calm -> nearly full, or nearly full -> calm.
-- Post: the queue is in pressured_queues while it is nearly full. Each transition appends one event. A repetition
--       appends none.
-- Memory: allow-oom; adds 500 bytes.
-- KEYS: 1 meta pressured_queues, 2 meta events.
-- ARGV: 1 events kept, 2 queue, 3 'above' its warning threshold, 'below' it, or '' for neither, 4 depth,
--       5 depth bound, 6 ms until the next check.
-- Returns: 1 when the queue is nearly full now, otherwise 0
--@include keys now fields append_event set_deadline
begin_events(ARGV[1])
local PRESSURED, queue, side = KEYS[1], ARGV[2], ARGV[3]
local was_above = redis.call('ZSCORE', PRESSURED, queue)
if side ~= 'above' and not was_above then return 0 end
local kind
if side == 'above' and not was_above then kind = 'backpressure.warning'
elseif side == 'below' then kind = 'backpressure.cleared' end
if kind then emit(kind, '', {[F.queue] = queue, [F.type] = ''}, 'd', ARGV[4], 'b', ARGV[5]) end
if side == 'below' then
    redis.call('ZREM', PRESSURED, queue)
    return 0
end
set_deadline(PRESSURED, queue, now + ARGV[6])
return 1
