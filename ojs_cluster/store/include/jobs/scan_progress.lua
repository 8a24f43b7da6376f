-- How far a scan of select_jobs.lua has come, and what each item takes of its budget.
--@include load_candidate suspects
-- Jobs that cannot start, which one call passes at 10 us each. The first job of a rate limit key takes 35 us and
-- counts as two, as does a job that is parked, and a job that leaves its queue as eight.
local MAX_PASSED_JOBS = 400
local FIRST_OF_KEY_COST = 2
local PARKING_COST = 2
local LEAVING_JOB_COST = 8

-- A scan reads jobs in the order of the queues until enough can start. `progress` tells how far it has come:
--   items          the items that were read: see load_item
--   startable      how many of them can start
--   max_startable  with how many the scan of the present queue ends
--   wanted         with how many the whole scan ends
--   bytes          size of the jobs that can start, and of those that were read before the scan
--   budget         what is left of MAX_PASSED_JOBS and of the jobs that were wanted
--   known_keys     rate limit key -> true, if a job was passed that waits for its token

-- Returns whether the scan of the present queue has enough jobs.
function candidates.has_enough(progress)
    return progress.startable >= progress.max_startable or progress.bytes >= MAX_REPLY_BYTES
end

-- Returns how much of the budget an item takes.
function candidates.cost_of(item, known_keys)
    if item.is_other_type then return PARKING_COST end
    if not item.alive or item.job[F.hold] then return LEAVING_JOB_COST end
    local key = item.job[F.limit]
    if item.starts or known_keys[key] then return 1 end
    known_keys[key] = true
    return FIRST_OF_KEY_COST
end

-- Adds an item to those that were read, unless it is a suspect that the fetch leaves.
function candidates.add_item(progress, item, promoted)
    local job, starts = item.job, item.starts
    local decision = starts and job[F.suspect]
        and suspects.decide(job, progress.startable, promoted, MAX_REPLY_BYTES)
    if decision == 'leave' then
        starts, suspects.left_bytes = false, suspects.left_bytes + size_of(job)
    else
        item.alone_until = decision and tonumber(suspects.mode)
        table.insert(progress.items, item)
    end
    if starts then
        progress.startable, progress.bytes = progress.startable + 1, progress.bytes + size_of(job)
    end
    if decision == 'take' or suspects.is_asked then -- no other job, of this queue or of the next ones
        progress.wanted, progress.max_startable = progress.startable, progress.startable
    end
    candidates.is_blocked_found = candidates.is_blocked_found or not starts
    progress.budget = progress.budget - candidates.cost_of(item, progress.known_keys)
end
