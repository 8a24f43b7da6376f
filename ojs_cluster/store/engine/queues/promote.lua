-- Transition: scheduled | retryable -> available | discarded (expired), for up to `limit` due jobs of one shard; fewer
--       if they have many different fields, or many bytes and have expired.
-- Post: each such job is in its queue, or discarded if it has expired. A malformed job is checked again later.
-- Memory: allow-oom; per job 1 KiB.
-- KEYS: 1 due, 2 expiring, 3 finished, 4 events.
-- ARGV: 1 events kept, 2 limit, 3 ms to keep discarded jobs.
-- Returns: {number of jobs promoted or discarded, now, ms at which the next job is due or -1, effects,
--           ids of malformed jobs}
--@include keys now preflight remove_many read_job change_counters append_event
--@include set_deadline append_effect make_available finish_job remove_from_queue promote_jobs
begin_events(ARGV[1])
batch_events()
local limit, keep_discarded_ms = tonumber(ARGV[2]), ARGV[3]
local due, malformed_ids = load_due_jobs(limit)
promote_due(due, keep_discarded_ms)
for _, id in ipairs(malformed_ids) do recheck_later(DUE, id) end
-- The promoted jobs are now the first of DUE, because each malformed job has got a time in the future. To remove a
-- range of ranks costs half as much as to remove its members by name.
local promoted = #due.ids
local next_due = redis.call('ZRANGE', DUE, promoted, promoted, 'WITHSCORES')[2]
if promoted > 0 then redis.call('ZREMRANGEBYRANK', DUE, 0, promoted - 1) end
flush_events()
flush_removals()
flush_counters()
return {promoted, now, tonumber(next_due) or -1, effects, malformed_ids}
