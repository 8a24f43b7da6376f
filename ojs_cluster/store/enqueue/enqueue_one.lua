-- Transition: (nothing) -> available, for one plain job. The fast path of enqueue.lua, whose includes cost
-- more to load than this whole script.
-- Pre:  nothing is stored under the id, not even a tombstone.
-- Post: the job exists, and counters, indexes and events agree with it. Nothing is stored when the queue is
--       not marked as `open` (new, or bounded), or when its counters are not numbers: see enqueue.lua.
-- Memory: deny-oom.
-- KEYS: 1 events, 2 queue_counters, 3 queue_available, 4 job hash.
-- ARGV: 1 events kept, 2 id, 3 queue, 4 priority, then field names and values: e, t and others that are set.
-- Returns: {'ok', now, {}, 'available', '', ''} | {'full_path'} | {'bounded'}: use enqueue.lua
--          {'exists', 1, fields as of read_existing.lua}
--@include keys fields
if redis.call('EXISTS', KEYS[4]) == 1 then
--@include read_existing
    return {'exists', 1, read_existing(KEYS[4])}
end
local sums = redis.call('HMGET', KEYS[2], 'open', 'enqueued', 'seq')
local enqueued, place = tonumber(sums[2] or 0), tonumber(sums[3] or 0)
-- enqueue.lua replaces counters that HINCRBY would refuse or a score would not hold exactly.
if not (sums[1] and enqueued and enqueued % 1 == 0 and enqueued < BAND and enqueued > -BAND and
    place and place % 1 == 0 and place < BAND and place > -BAND) then
    return {redis.call('HEXISTS', KEYS[2], 'bound') == 1 and 'bounded' or 'full_path'}
end
--@include now priority_base
redis.call('HSET', KEYS[4], F.state, 'available', F.queue, ARGV[3], F.created, now, unpack(ARGV, 5))
redis.call('HSET', KEYS[2], 'enqueued', enqueued + 1, 'seq', place + 1)
redis.call('ZADD', KEYS[3], band_of(ARGV[4]) + place + 1, ARGV[2])
if redis.call('ZCARD', KEYS[3]) == 1 then redis.call('SPUBLISH', WAKE_CHANNEL, ARGV[3]) end
if ARGV[1] ~= '0' then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*',
        't', 'job.enqueued', 'j', ARGV[2], 'y', ARGV[8], 'q', ARGV[3])
end
return {'ok', now, {}, 'available', '', ''}
