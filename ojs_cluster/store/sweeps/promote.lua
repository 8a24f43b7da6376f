-- Transition: scheduled | retryable -> available, for up to `limit` due jobs of one shard.
-- Post: what is due is in its queue (or discarded, when its expiry came first).
-- Memory: allow-oom; per job 1 KiB.
-- KEYS: 1..4 the shard's due, exp, fin, ev.
-- ARGV: 1 events kept, 2 limit, 3 ms to keep discarded jobs.
-- Returns: {jobs moved, now, ms of the next due job or -1, effects, malformed jobs put aside}
--@include keys now preflight remove_many lowest_remaining read_job change_counters append_event
--@include set_deadline append_effect make_available finish_job remove_from_queue promote_jobs
batch_events()
local ids, jobs, malformed_ids = load_due_jobs(tonumber(ARGV[2]))
promote_due(ids, jobs, ARGV[3])
for _, id in ipairs(malformed_ids) do recheck_later(DUE, id) end
local following = lowest_remaining(DUE)
flush_events()
flush_removals()
flush_counters()
return {#ids, now, following or -1, effects, malformed_ids}
