-- Transition: active -> completed.
-- Pre:  the job is active and the caller holds its lease, or says nothing of a holder.
-- Post: result stored, lease gone, last error cleared, retention set.
--       The holder repeating the ack that completed the job changes nothing and gets the job.
-- KEYS: 1 job, 2..5 the shard's act, run, fin, ev.
-- ARGV: 1 events kept, 2 worker id or '', 3 lease id or '', 4 result JSON or '',
--       5 ms to keep completed jobs.
-- Returns: {'ok', fields, effects} | {'missing'} | {'moved', shard} | {'staged', deal}
--          {'conflict', state} | {'not_holder'}
--@include keys now look once job event deadline effect finish minutes holder
local key = KEYS[1]
local job, reply = load_job(key)
if not job then return reply end
local id = string.sub(key, #P + 3)
local named = ARGV[2] ~= '' or ARGV[3] ~= ''
if job[F.state] == 'completed' and named and is_holder(job, ARGV[2], ARGV[3]) then
    return {'ok', job.flat, effects}
end
if job[F.state] ~= 'active' then return {'conflict', job[F.state]} end
if not is_holder(job, ARGV[2], ARGV[3]) then return {'not_holder'} end

want(queue_key(job[F.queue]))
want(minutes_key(job[F.queue]))
look()
leave_worker(id, job)
if ARGV[4] ~= '' then finish(id, key, job, 'completed', ARGV[5], F.result, ARGV[4])
else finish(id, key, job, 'completed', ARGV[5]) end
if job[F.delay] then drop_fields(key, job, F.delay) end
redis.call('HINCRBY', queue_key(job[F.queue]), 'acked', 1)
tally(job, 'c')
emit('job.completed', id, job, 'a', job[F.attempt], 'd', now - job[F.started])
return {'ok', job.flat, effects}
