-- Appends the event backpressure.rejected of a queue, unless one was appended a short time ago.
-- Post: the queue has the time of the event. A client that repeats a refused request cannot displace other events.
-- Memory: allow-oom; adds 300 bytes.
-- KEYS: 1 queue_counters, 2 events.
-- ARGV: 1 events kept, 2 queue, 3 type of a refused job, 4 depth, 5 depth bound, 6 ms between two events.
-- Returns: 1 when the event was appended, otherwise 0
--@include keys now fields append_event
begin_events(ARGV[1])
local counters_key, queue = KEYS[1], ARGV[2]
local created, at = unpack(redis.call('HMGET', counters_key, 'created', 'rejected_at'))
local age = now - (tonumber(at) or 0)
if not created or age >= 0 and age < tonumber(ARGV[6]) then return 0 end
redis.call('HSET', counters_key, 'rejected_at', now)
emit('backpressure.rejected', '', {[F.queue] = queue, [F.type] = ARGV[3]}, 'd', ARGV[4], 'b', ARGV[5])
return 1
