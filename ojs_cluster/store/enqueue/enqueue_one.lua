-- Transition: (nothing) -> available, for one job that wants nothing else: as enqueue.lua, whose pieces
-- cost more to load than all of this.
-- Pre:  no job with the id exists, nor a fence.
-- Post: the job exists, and counters, indexes and events agree with it. Nothing when the queue is not
--       marked as `open`: it is seen for the first time, or has a bound. Nor when its counters are no
--       numbers. See enqueue.lua.
-- Memory: deny-oom.
-- KEYS: 1 the shard's ev, 2 the queue's c:, 3 its q:, 4 the job's hash.
-- ARGV: 1 events kept, 2 id, 3 queue, 4 priority, then field names and values: e, t and what else is set.
-- Returns: {'ok', now, {}, 'available', '', ''} | {'full_path'} for enqueue.lua to store | {'bounded'} likewise
--          {'exists', 1, fields of the job that is there (see there.lua)}
--@include keys fields
if redis.call('EXISTS', KEYS[4]) == 1 then
--@include read_existing
    return {'exists', 1, read_existing(KEYS[4])}
end
local sums = redis.call('HMGET', KEYS[2], 'open', 'came', 'seq')
local came, place = tonumber(sums[2] or 0), tonumber(sums[3] or 0)
-- What HINCRBY would refuse, or a score would not hold exactly, is enqueue.lua's to replace.
if not (sums[1] and came and came % 1 == 0 and came < BAND and came > -BAND and
    place and place % 1 == 0 and place < BAND and place > -BAND) then
    return {redis.call('HEXISTS', KEYS[2], 'bound') == 1 and 'bounded' or 'full_path'}
end
--@include now priority_base
redis.call('HSET', KEYS[4], F.state, 'available', F.queue, ARGV[3], F.created, now, unpack(ARGV, 5))
redis.call('HSET', KEYS[2], 'came', came + 1, 'seq', place + 1)
redis.call('ZADD', KEYS[3], band_of(ARGV[4]) + place + 1, ARGV[2])
if redis.call('ZCARD', KEYS[3]) == 1 then redis.call('SPUBLISH', WAKE_CHANNEL, ARGV[3]) end
if ARGV[1] ~= '0' then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*',
        't', 'job.enqueued', 'j', ARGV[2], 'y', ARGV[8], 'q', ARGV[3])
end
return {'ok', now, {}, 'available', '', ''}
