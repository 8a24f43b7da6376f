-- Transition: (nothing) -> available, for one job that wants nothing else: as enqueue.lua, whose pieces
-- cost as much to load as all of this.
-- Pre:  no job with the id exists, nor a fence.
-- Post: the job exists, and counters, indexes and events agree with it. Nothing when the queue is not
--       marked as `open`: it is seen for the first time, or has a bound. See enqueue.lua.
-- Memory: deny-oom.
-- KEYS: 1 the shard's ev, 2 the queue's c:, 3 its q:, 4 the job's hash.
-- ARGV: 1 events kept, 2 id, 3 queue, 4 priority, then field names and values (e, t, m and what is set).
-- Returns: {'ok', now, {}, 'available', '', ''} | {'any'} for enqueue.lua to store | {'bounded'} likewise
--          {'exists', 1, fields of the job that is there (see there.lua)}
--@include keys now job there event deadline available
local key, id = KEYS[4], ARGV[2]
if redis.call('EXISTS', key) == 1 then return {'exists', 1, what_is_there(key)} end
if redis.call('HEXISTS', KEYS[2], 'open') == 0 then
    return {redis.call('HEXISTS', KEYS[2], 'bound') == 1 and 'bounded' or 'any'}
end

local job = {[F.queue] = ARGV[3], [F.priority] = ARGV[4]}
for i = 5, #ARGV, 2 do job[ARGV[i]] = ARGV[i + 1] end
redis.call('HSET', key, F.state, 'available', F.queue, ARGV[3], F.created, now, unpack(ARGV, 5))
if ARGV[4] ~= '0' then redis.call('HSET', key, F.priority, ARGV[4]) end
add_to(KEYS[2], 'came', 1)
make_available(id, job)
if EVENTS_KEPT > 0 then add_event('job.enqueued', id, job, {}) end
return {'ok', now, {}, 'available', '', ''}
