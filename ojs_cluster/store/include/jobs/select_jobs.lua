-- Selects the jobs that a fetch takes. fetch_full.lua explains `queues` and `jobs`.
--@include load_candidate merged_rows fair_share fair_rows_again write_turns suspects
-- Jobs that cannot start, which one call passes at 10 us each. The first job of a rate limit key takes 35 us and
-- counts as two, as does a job that is parked, and a job that leaves its queue as eight.
local MAX_PASSED_JOBS = 400
local FIRST_OF_KEY_COST = 2
local PARKING_COST = 2
local LEAVING_JOB_COST = 8

-- Reads the first jobs of the queues, in order, until `wanted` jobs can start. `tenant`: whose jobs are read, '' for
-- all. `bytes_read`: bytes of jobs that were read before. fetch_full.lua scans again after it has promoted due jobs,
-- `promoted`. The second scan ends at the first job or queue that was not read before that write, because no preflight
-- is possible after a write.
-- Returns the items that were read, and whether the budget of passed jobs was used up before enough could start. Of
-- an item:
--   id, score, queue, job  see fetch_full.lua; `job` is false if it is missing or malformed, or the item is stale
--   is_stale       an index names the job, and its queue does not
--   entry          what is left of a parked job in the indexes (see parking.load_entry), false for none
--   is_malformed   the job is malformed
--   alive          the job has not expired
--   is_other_type  the fetch does not name its type
--   starts         the job can start
--   alone_until    for a suspect: the ms until which its worker gets no other job; nil if it may have others
local function scan(queues, jobs, wanted, tenant, bytes_read, promoted)
    -- live: number of jobs that can start.
    local scanned, live, bytes, budget, keys = {}, 0, bytes_read, wanted + MAX_PASSED_JOBS, {}
    reset_local_tokens()
    suspects.begin_scan()
    for _, queue in ipairs(queues) do
        local from, max_live = 0, live + free_starts(queue.limits.limiters, wanted - live)
        local open = not queue.limits.paused and live < max_live
        if promoted and open and not queue.visited then budget = 0 end
        queue.visited = open and (queue.visited or not promoted)
        if queue.visited and not promoted then begin_turns(queue, wanted, tenant) end
        local again = promoted and queue.turns
        if open and not queue.turns and queue.parked[1] then
            queue.rows_in_order, queue.merged_shown = merge.open(merge.sets_of(queue, tenant)), {}
        end
        while open and live < max_live and budget > 0 and bytes < MAX_REPLY_BYTES do
            local ahead = queue.turns and 8 or 100 -- each row may be of another tenant, with sets of its own
            local size = math.min(math.max(max_live - live, found_blocked and ahead or 0), budget)
            local rows = again and fair_rows_again(queue, promoted, jobs) or queue.turns and fair.rows(queue, size)
                or queue.parked[1] and merge.rows(queue, size)
                or redis.call('ZRANGE', queue.source, from, from + size - 1, 'WITHSCORES')
            for i = 1, #rows, 2 do
                local id = rows[i]
                if promoted and jobs[id] == nil then budget = 0 end
                if bytes >= MAX_REPLY_BYTES or live >= max_live or budget <= 0 then break end
                local stale = merge.is_stale(queue, id)
                if not stale and jobs[id] == nil then jobs[id] = load_candidate(queue, id) end
                local job = not stale and jobs[id]
                local alive = job and (not job[F.expires] or tonumber(job[F.expires]) > now)
                local is_parked = queue.parked_in[id]
                local entry = is_parked and not job and parking.load_entry(queue, id)
                local other = alive and not job[F.hold] and not is_parked and parking.is_other_type(queue, job)
                local starts = alive and not job[F.hold] and not other and may_start(job)
                local decision = starts and job[F.suspect] and suspects.decide(job, live, promoted, MAX_REPLY_BYTES)
                if suspects.is_asked then return scanned, false end
                if starts and decision ~= 'leave' then live, bytes = live + 1, bytes + size_of(job) end
                if decision == 'leave' then suspects.left_bytes = suspects.left_bytes + size_of(job) end
                if suspects.is_taken then max_live = live end
                found_blocked = found_blocked or not starts or decision == 'leave'
                local cost, key = (not alive or job[F.hold]) and LEAVING_JOB_COST or 1, job and job[F.limit]
                if other then cost = PARKING_COST
                elseif cost == 1 and not starts and not keys[key] then keys[key], cost = true, FIRST_OF_KEY_COST end
                budget = budget - cost
                scanned[#scanned + 1] = decision ~= 'leave' and {id = id, score = tonumber(rows[i + 1]), queue = queue,
                    job = job, alive = alive, starts = starts, is_stale = stale, is_other_type = other, entry = entry,
                    is_malformed = malformed[id], alone_until = decision and tonumber(suspects.mode)} or nil
            end
            open, from = not again and #rows == 2 * size, from + size
        end
        if again and not queue.at_end and live < max_live then budget = 0 end
        queue.last = (live >= max_live or bytes >= MAX_REPLY_BYTES) and #scanned > 0
            and scanned[#scanned].score
        if suspects.is_taken or live >= wanted or bytes >= MAX_REPLY_BYTES then break end
    end
    return scanned, budget <= 0 and live < wanted and not suspects.is_taken and suspects.left == 0
end
