-- The reaper of an earlier version returns parked jobs to their queue after this time: see leave_parked.lua.
local PARKED_CHECK_MS = 600000

-- The indexes of a parked job (leave_parked.lua): all parked jobs of its queue, those that it is parked under the same
-- name with, and both again for its tenant. The field `parked` has this name, the type of the job.
local function parked_keys(job)
    local queue, kind, tenant = job[F.queue] or '', job[F.parked], job[F.tenant]
    local keys = {parked_jobs_key(queue, '', ''), parked_jobs_key(queue, kind, '')}
    if tenant then
        keys[3], keys[4] = parked_jobs_key(queue, '', tenant), parked_jobs_key(queue, kind, tenant)
    end
    return keys
end

-- Reads, before the first write, the keys that the removal of a parked job may touch.
local function preflight_parked(job)
    for _, name in ipairs(parked_keys(job)) do preflight_key(name) end
    preflight_key(queue_blocked_key(job[F.queue] or ''))
    preflight_key(QUARANTINE)
end
