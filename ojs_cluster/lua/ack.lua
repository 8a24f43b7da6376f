-- Transition: active -> completed, of a job that owes nothing to others.
-- Pre:  the job is active and the caller holds its lease, or says nothing of a holder. For any other
--       or malformed job, for one of a workflow, a lock or a rate limit's key, and for the first of a minute in its
--       queue, nothing is done: that is ack_any.lua's, whose pieces cost as much to load as half of this.
-- Post: result stored, lease gone, last error cleared, retention set.
-- Memory: allow-oom; adds the result (OJS_RESULT_MAX_BYTES) and 1 KiB.
-- KEYS: 1 job, 2..5 the shard's act, run, fin, ev.
-- ARGV: 1 events kept, 2 worker id or '', 3 lease id or '', 4 result JSON or '',
--       5 ms to keep completed jobs.
-- Returns: {'ok', fields} | {'any'}
--@include keys now job counts event finish leave holder
local key, flat = KEYS[1], redis.call('HGETALL', KEYS[1])
local job, id = {flat = flat}, string.sub(key, #P + 3)
for i = 1, #flat, 2 do job[flat[i]] = flat[i + 1] end
if job[F.state] ~= 'active' or not is_holder(job, ARGV[2], ARGV[3]) or job[F.deal] or job[F.workflow]
    or job[F.unique] or job[F.limit] or not is_sound(job) then return {'any'} end

-- That this minute is noted proves that the counters are here (see look.lua).
local queue, by = job[F.queue], sums_of(job, 'c')
local counters = queue_key(queue)
local minute, limits, active, completed, acked, ran, waited = unpack(redis.call('HMGET', counters,
    'minute', 'limits', 'active', 'completed', 'acked', 'ran', 'waited'))
if minute ~= this_minute() then return {'any'} end
active, completed, acked, ran, waited = tonumber(active) or 0, tonumber(completed) or 0,
    tonumber(acked) or 0, tonumber(ran) or 0, tonumber(waited) or 0

redis.call('ZREM', KEYS[2], id)
if job[F.timeout] then redis.call('ZREM', KEYS[3], id) end
redis.call('ZADD', KEYS[4], removal_of(job, ARGV[5]), id)
if ARGV[4] == '' then save_job(key, job, F.state, 'completed', F.finished, now)
else save_job(key, job, F.state, 'completed', F.finished, now, F.result, ARGV[4]) end
if job[F.delay] then drop_fields(key, job, F.delay) end
redis.call('HSET', counters, 'active', active - 1, 'completed', completed + 1,
    'acked', acked + by.acked, 'ran', ran + by.ran, 'waited', waited + by.waited)
tell_of_room(queue, limits, active, -1)
if EVENTS_KEPT > 0 then
    add_event('job.completed', id, job, {'a', job[F.attempt], 'd', now - job[F.started]})
end
return {'ok', flat}
