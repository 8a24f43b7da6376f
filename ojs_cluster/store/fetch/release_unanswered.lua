-- Transition: active -> available, for jobs that a fetch leased whose reply was lost. The result is the
--             same as if they had not been fetched.
-- Pre:  the job's lease id begins with a given prefix.
-- Post: none of the walked jobs has such a lease. Each released job is at the front of its queue, and the
--       attempt does not count.
-- Memory: allow-oom; per job 300 bytes.
-- KEYS: 1 active, 2 execution_deadlines, 3 expiring, 4 finished, 5 events, 6 due.
-- ARGV: 1 events kept, 2 cursor ('' to begin), 3 active jobs to walk, then prefixes of one length.
-- Returns: {next cursor or '', effects, then the prefix of each job that was released}
--@include keys now preflight remove_many read_job change_counters append_event set_deadline
--@include append_effect make_available finish_job remove_from_queue backoff_delay match_error
--@include decide_failure cap_dead_letters fail_attempt check_holder nack_job walk_active
local cursor, walked, length = ARGV[2], ARGV[3], #ARGV[4]
local prefixes = {}
for i = 4, #ARGV do prefixes[ARGV[i]] = true end
local taken, next_cursor = walk_active(cursor, walked, {F.lease}, function(found)
    return prefixes[string.sub(found[1], 1, length)]
end)
local nack, pairs_ = {[ACTION] = 'release'}, {}
for i, item in ipairs(taken) do pairs_[i] = {item.job, nack} end
preflight_nacks(pairs_, 0)

batch_events()
local reply = {next_cursor, effects}
for _, item in ipairs(taken) do
    reply[#reply + 1] = string.sub(item.job[F.lease], 1, length)
    end_attempt(item.id, job_key(item.id), item.job, nack, 0)
end
flush_events()
flush_removals()
flush_counters()
return reply
