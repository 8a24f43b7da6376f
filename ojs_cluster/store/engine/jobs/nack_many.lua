-- Transition: active -> retryable | discarded | available | cancelled, for jobs of one shard, each independently of
--             the others.
-- Pre:  as nack.lua, for each job.
-- Post: as nack.lua, for each job; a job whose attempt cannot be ended does not affect the others. The second
--       of two nacks of one job is treated as a repetition, or refused.
-- Memory: allow-oom; per job as nack.
-- KEYS: 1 due, 2 active, 3 execution_deadlines, 4 expiring, 5 finished, 6 dead, 7 events, then the jobs.
-- ARGV: 1 to 7 as nack.lua, then per job its nack (see include/jobs/nack_job.lua) as msgpack.
-- Returns: {effects, per job: {'ok', state, queue, type} for an attempt that has failed
--                            {'ok', state} for a repeated or another nack
--                            or a reply of nack.lua other than 'ok'}
--@include keys now preflight remove_many load_jobs change_counters append_event set_deadline
--@include append_effect make_available finish_job remove_from_queue backoff_delay match_error
--@include decide_failure cap_dead_letters error_groups fail_attempt check_holder nack_job
begin_events(ARGV[1])
local jobs, replies, ending = {}, {effects}, {}
local errors_kept, retention = tonumber(ARGV[2]), {ARGV[3], ARGV[4], tonumber(ARGV[5])}
set_server_exhaustion(ARGV[6])
set_history(ARGV[7])
local nacks = {}
for i = 8, #KEYS do
    local key = KEYS[i]
    nacks[i] = cmsgpack.unpack(ARGV[i])
    if jobs[key] == nil then
        local job, reply = load_within_budget(key)
        jobs[key] = job or reply
    end
    local job = jobs[key]
    if job.field_list and not early_nack_reply(job, nacks[i]) then ending[#ending + 1] = {job, nacks[i]} end
end
preflight_nacks(ending, retention[3])
batch_events()
for i = 8, #KEYS do
    local key, nack = KEYS[i], nacks[i]
    local job = jobs[key] -- or the reply for a job that cannot be loaded
    local reply = job
    if job.field_list then
        reply = early_nack_reply(job, nack)
        local repeated = reply
        reply = reply or end_attempt(job_id_of(key), key, job, nack, errors_kept, retention)
        if reply[1] == 'ok' then
            reply = {'ok', job[F.state]}
            if not repeated and nack[ACTION] == 'fail' and nack[DECISION] ~= 'snooze' then
                reply[3], reply[4] = job[F.queue], job[F.type]
            end
        end
    end
    replies[#replies + 1] = reply
end
flush_events()
flush_removals()
flush_counters()
flush_unstarted()
flush_error_groups()
return replies
