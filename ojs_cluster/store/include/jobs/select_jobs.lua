-- Selects the jobs that a fetch takes. fetch_full.lua explains `queues` and `jobs`.
--@include candidate_items scan_progress
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
