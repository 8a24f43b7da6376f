-- Selects the jobs that a fetch takes. fetch_full.lua explains `queues` and `jobs`.
--@include load_candidate merged_rows fair_share fair_rows_again write_turns suspects
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

-- Returns the next rows of a queue in its order, as ZRANGE WITHSCORES does. `from`: number of rows that were read.
function candidates.next_rows(queue, from, size, jobs, promoted)
    if queue.turns then
        return promoted and fair_rows_again(queue, promoted, jobs) or fair.rows(queue, size)
    end
    if queue.parked[1] then return merge.rows(queue, size) end
    return redis.call('ZRANGE', queue.source, from, from + size - 1, 'WITHSCORES')
end

-- Loads a job, unless `jobs` has it, and returns its item. If it can start, this takes its token: call it once per job
-- of a scan, in the order of the jobs. Members of an item:
--   id, score, queue, job  see fetch_full.lua; `job` is false if it is missing or malformed, or the item is stale
--   is_stale       an index names the job, and its queue does not
--   entry          what is left of a parked job in the indexes (see parking.load_entry), false for none
--   is_malformed   the job is malformed
--   alive          the job has not expired
--   is_other_type  the fetch does not name its type
--   starts         the job can start
--   alone_until    for a suspect: the ms until which its worker gets no other job; absent if it may have others
function candidates.load_item(queue, id, score, jobs)
    local is_stale, is_parked = merge.is_stale(queue, id), queue.parked_in[id]
    if not is_stale and jobs[id] == nil then jobs[id] = candidates.load(queue, id) end
    local job = not is_stale and jobs[id]
    local alive = job and (not job[F.expires] or tonumber(job[F.expires]) > now)
    local may_run = alive and not job[F.hold]
    local is_other_type = may_run and not is_parked and parking.is_other_type(queue, job)
    return {id = id, score = tonumber(score), queue = queue, job = job, is_stale = is_stale, alive = alive,
        entry = is_parked and not job and parking.load_entry(queue, id), is_other_type = is_other_type,
        is_malformed = candidates.malformed[id], starts = may_run and not is_other_type and may_start(job)}
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

-- Reads the first jobs of one queue.
function candidates.scan_queue(progress, queue, jobs, promoted)
    local ahead = queue.turns and 8 or 100 -- each row may be of another tenant, with sets of its own
    local from, may_have_more = 0, true
    while may_have_more and progress.budget > 0 and not candidates.has_enough(progress) do
        local missing = progress.max_startable - progress.startable
        local size = math.min(math.max(missing, candidates.is_blocked_found and ahead or 0), progress.budget)
        local rows = candidates.next_rows(queue, from, size, jobs, promoted)
        for i = 1, #rows, 2 do
            if promoted and jobs[rows[i]] == nil then progress.budget = 0 end
            if progress.budget <= 0 or candidates.has_enough(progress) then break end
            candidates.add_item(progress, candidates.load_item(queue, rows[i], rows[i + 1], jobs), promoted)
        end
        -- After a promotion, the rows of a queue with turns are all that there are.
        may_have_more, from = #rows == 2 * size and not (promoted and queue.turns), from + size
    end
end

-- Reads the first jobs of the queues, in order, until `wanted` jobs can start. `tenant`: whose jobs are read, '' for
-- all. `bytes_read`: bytes of jobs that were read before. fetch_full.lua scans again after it has promoted due jobs,
-- `promoted`. The second scan ends at the first job or queue that was not read before that write, because no preflight
-- is possible after a write.
-- Returns the items that were read, and whether the budget of passed jobs was used up before enough could start.
local function scan(queues, jobs, wanted, tenant, bytes_read, promoted)
    local progress = {items = {}, startable = 0, bytes = bytes_read, wanted = wanted,
        budget = wanted + MAX_PASSED_JOBS, known_keys = {}}
    reset_local_tokens()
    suspects.begin_scan()
    for _, queue in ipairs(queues) do
        local missing = wanted - progress.startable
        progress.max_startable = progress.startable + free_starts(queue.limits.limiters, missing)
        local is_open = not queue.limits.paused and progress.startable < progress.max_startable
        if promoted and is_open and not queue.visited then progress.budget = 0 end
        queue.visited = is_open and (queue.visited or not promoted)
        if queue.visited and not promoted then begin_turns(queue, wanted, tenant) end
        if is_open and not queue.turns and queue.parked[1] then
            queue.rows_in_order, queue.merged_shown = merge.open(merge.sets_of(queue, tenant)), {}
        end
        if is_open then candidates.scan_queue(progress, queue, jobs, promoted) end
        local is_cut_short = promoted and queue.turns and not queue.at_end
        if is_cut_short and progress.startable < progress.max_startable then progress.budget = 0 end
        local last = progress.items[#progress.items]
        queue.last = candidates.has_enough(progress) and last and last.score
        if progress.startable >= progress.wanted or progress.bytes >= MAX_REPLY_BYTES then break end
    end
    return progress.items, progress.budget <= 0 and progress.startable < progress.wanted and suspects.left == 0
end
