-- Transition: active -> available | cancelled (after a cancel request), for jobs that were leased by a fetch whose
--             reply was lost. The result is the same as if they had not been fetched.
-- Pre:  the job's lease id begins with one of the given prefixes.
-- Post: none of the walked jobs has such a lease. Each available one is at the front of its queue, and the attempt
--       does not count.
-- Memory: allow-oom; per job 300 bytes.
-- KEYS: 1 active, 2 execution_deadlines, 3 expiring, 4 finished, 5 events, 6 due.
-- ARGV: 1 events kept, 2 cursor ('' to begin), 3 maximum number of active jobs to walk, 4.. prefixes of lease
--       ids, all of the same length.
-- Returns: {next cursor ('' at the end of the walk), effects, then the prefix of each released job}
--@include keys now preflight remove_many read_job change_counters append_event set_deadline
--@include append_effect make_available finish_job remove_from_queue backoff_delay match_error
--@include decide_failure cap_dead_letters error_groups fail_attempt check_holder nack_job walk_active
begin_events(ARGV[1])
local cursor, max_walked, prefix_length = ARGV[2], ARGV[3], #ARGV[4]
local prefixes = {}
for i = 4, #ARGV do prefixes[ARGV[i]] = true end
local matching, next_cursor = walk_active(cursor, max_walked, {F.lease}, function(values)
    return prefixes[string.sub(values[1], 1, prefix_length)]
end)
local nack, nacks = {[ACTION] = 'release'}, {}
for i, item in ipairs(matching) do nacks[i] = {item.job, nack} end
local NO_DEAD_LETTERS, NO_ERRORS = 0, 0 -- numbers to keep: a release creates none
preflight_nacks(nacks, NO_DEAD_LETTERS)

batch_events()
local reply = {next_cursor, effects}
for _, item in ipairs(matching) do
    reply[#reply + 1] = string.sub(item.job[F.lease], 1, prefix_length)
    end_attempt(item.id, job_key(item.id), item.job, nack, NO_ERRORS)
end
flush_events()
flush_removals()
flush_counters()
flush_unstarted()
return reply
