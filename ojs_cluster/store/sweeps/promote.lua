-- Transition: scheduled | retryable -> available, for up to `limit` due jobs of one shard.
-- Post: each such job is in its queue, or discarded when it has expired.
-- Memory: allow-oom; per job 1 KiB.
-- KEYS: 1 due, 2 expiring, 3 finished, 4 events.
-- ARGV: 1 events kept, 2 limit, 3 ms to keep discarded jobs.
-- Returns: {jobs moved, now, ms of the next due job or -1, effects, ids of malformed jobs}
--@include keys now preflight remove_many lowest_remaining read_job change_counters append_event
--@include set_deadline append_effect make_available finish_job remove_from_queue promote_jobs
batch_events()
local limit, keep_discarded_ms = tonumber(ARGV[2]), ARGV[3]
local ids, jobs, malformed_ids = load_due_jobs(limit)
promote_due(ids, jobs, keep_discarded_ms)
for _, id in ipairs(malformed_ids) do recheck_later(DUE, id) end
local following = lowest_remaining(DUE)
flush_events()
flush_removals()
flush_counters()
return {#ids, now, following or -1, effects, malformed_ids}
