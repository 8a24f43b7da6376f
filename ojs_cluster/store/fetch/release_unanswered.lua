-- Transition: active -> available, for jobs whose fetch was carried out and never answered: nobody knows
--             that they have a lease. As if they had not been fetched.
-- Pre:  the job's lease id begins with a prefix that is given.
-- Post: of the active jobs that the call has walked through, none has such a lease. Each is at the front
--       of its queue, and the attempt does not count.
-- Memory: allow-oom; per job 300 bytes.
-- KEYS: 1..6 the shard's act, run, exp, fin, ev, due.
-- ARGV: 1 events kept, 2 cursor ('' to begin), 3 active jobs to walk through, then prefixes of one length.
-- Returns: {next cursor or '', effects, then the prefix of each job that was released}
--@include keys now preflight remove_many read_job change_counters append_event set_deadline
--@include append_effect make_available finish_job remove_from_queue backoff_delay match_error
--@include decide_failure cap_dead_letters fail_attempt check_holder nack_job walk_active
local lost, length = {}, #ARGV[4]
for i = 4, #ARGV do lost[ARGV[i]] = true end
local taken, cursor = walk_active(ARGV[2], ARGV[3], {F.lease}, function(found)
    return lost[string.sub(found[1], 1, length)]
end)
local undo, pairs_ = {[HOW] = 'release'}, {}
for i, item in ipairs(taken) do pairs_[i] = {item.job, undo} end
preflight_nacks(pairs_, 0)

batch_events()
local reply = {cursor, effects}
for _, item in ipairs(taken) do
    reply[#reply + 1] = string.sub(item.job[F.lease], 1, length)
    end_attempt(item.id, job_key(item.id), item.job, undo, 0)
end
flush_events()
flush_removals()
flush_counters()
return reply
