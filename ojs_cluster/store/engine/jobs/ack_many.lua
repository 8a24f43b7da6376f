-- Transition: active -> completed, for jobs of one shard, each independently of the others.
-- Pre:  as ack_full.lua, for each job.
-- Post: as ack_full.lua, for each job; a job that cannot be completed does not affect the others. A job that
--       is named twice is completed once.
-- Memory: allow-oom; per job as ack_full.
-- KEYS: 1 active, 2 finished, 3 events, then the jobs.
-- ARGV: 1 events kept, 2 ms to keep completed jobs, then per job: worker id or '', lease id or '',
--       result JSON or ''.
-- Returns: {effects, per job: {'ok', state, queue, type, ms of its run}
--                            {'ok', state} for a repeated ack
--                            or a reply of ack_full.lua other than 'ok'}
--@include keys now preflight remove_many load_jobs change_counters append_event set_deadline
--@include append_effect finish_job remove_from_queue check_holder complete_job
begin_events(ARGV[1])
batch_events()
local keep_ms, jobs, replies = ARGV[2], {}, {effects}
for i = 4, #KEYS do
    local key = KEYS[i]
    if jobs[key] == nil then
        local job, reply = load_within_budget(key)
        jobs[key] = job or reply
        if job then preflight_ack(job) end
    end
end
run_preflight()
for i = 4, #KEYS do
    local key, first_arg = KEYS[i], 3 + 3 * (i - 4)
    local worker, lease, result = unpack(ARGV, first_arg, first_arg + 2)
    local job = jobs[key] -- or the reply for a job that cannot be loaded
    local reply = job
    if job.field_list then
        reply = early_ack_reply(job, worker, lease)
        if not reply then
            complete(job_id_of(key), key, job, result, keep_ms)
            reply = {'ok', job[F.state], job[F.queue], job[F.type], now - job[F.started]}
        elseif reply[1] == 'ok' then reply = {'ok', job[F.state]} end
    end
    replies[#replies + 1] = reply
end
flush_events()
flush_removals()
flush_counters()
return replies
