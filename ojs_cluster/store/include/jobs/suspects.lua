-- Decides which suspects (worker_death.lua) a fetch takes. A suspect runs alone: a fetch that takes one takes no other
-- job. `suspects.mode`, from the caller of the script:
--   ''          the first job that can start may be a suspect. Then `suspects.is_asked` becomes true, nothing is taken,
--               and the caller finds out whether the worker has other jobs (store/engine/fetch/isolation.py)
--   'busy'      the worker has other jobs, or may have: a suspect is taken only when it has waited for PATIENCE_MS
--   'later'     the fetch has jobs already: suspects are left
--   two times   in ms: the worker has no other job and gets none until the first, if the call comes before the second, by
--               the clock of this shard
-- Behind MAX_LEFT suspects that were left, or some of MAX_REPLY_BYTES, others are taken as any job: then many workers
-- have died, for which no single job is to blame. For the same reason, at most MAX_ISOLATED workers are isolated at a
-- time (isolated_workers.lua).
-- The isolation of a worker may be ended after the second time (isolation.py). A call that comes later than that takes no
-- suspect alone.
--@include isolated_workers
local suspects = {PATIENCE_MS = 15000, MAX_LEFT = 50}

-- Sets the mode, and `suspects.refusal`: why the worker gets no job, nil if it may get some.
function suspects.begin(mode, worker, quiet_workers)
    local until_ms, lease_by = string.match(mode, '^(%S+) (%d+)$')
    local quiet_until, isolated_until
    if worker ~= '' then
        quiet_until, isolated_until = unpack(redis.call('ZMSCORE', quiet_workers, worker, isolation_of(worker)))
    end
    if quiet_until and tonumber(quiet_until) > now then
        suspects.refusal = 'quiet'
    elseif isolated_until and isolated_until ~= until_ms and tonumber(isolated_until) > now then
        suspects.refusal = 'isolated'
    end
    local is_late = until_ms and (isolated_until ~= until_ms or tonumber(lease_by) < now)
    suspects.mode = (is_late or mode == '' and worker == '') and 'busy' or until_ms or mode
    suspects.quiet_workers = quiet_workers
end

-- Begins to decide for a scan: `left` counts the suspects that are left.
function suspects.begin_scan()
    suspects.left, suspects.left_bytes = 0, 0
end

-- Returns what a fetch with `live` jobs so far does with a suspect that can start: 'leave', 'take' without others, or
-- nil for a job as any other. `promoted`: see scan. `max_bytes`: the size of the suspects that may be left.
function suspects.decide(job, live, promoted, max_bytes)
    if suspects.left >= suspects.MAX_LEFT or suspects.left_bytes >= max_bytes then return nil end
    if suspects.mode == '' and live == 0 and not promoted then
        if may_isolate(suspects.quiet_workers) then suspects.is_asked = true else suspects.mode = 'busy' end
    end
    local waits = suspects.mode == 'busy'
        and tonumber(job[F.enqueued] or job[F.created]) + suspects.PATIENCE_MS > now
    if live == 0 and suspects.mode ~= '' and suspects.mode ~= 'later' and not waits then
        return 'take'
    end
    suspects.left = suspects.left + 1
    return 'leave'
end
