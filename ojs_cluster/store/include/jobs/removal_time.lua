-- When a finished job may be removed.
local FIXED_KEEP_MS = 120000 -- longest time for which a stalled process may still store a job

-- Returns the ms at which a finished job may be removed. A process that was stalled may try to store a job
-- again whose id was fixed in advance (by a workflow or a cron job). So such a job is kept for FIXED_KEEP_MS at
-- least.
local function removal_time(job, keep_ms)
    if not (job[F.workflow] or job[F.fixed_id]) then return now + keep_ms end
    return math.max(now + keep_ms, (tonumber(job[F.finished]) or now) + FIXED_KEEP_MS)
end
