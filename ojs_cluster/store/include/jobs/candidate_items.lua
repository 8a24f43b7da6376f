-- The rows of a queue and their items, for select_jobs.lua. fetch_full.lua explains `queue` and `jobs`.
--@include load_candidate merged_rows fair_share fair_rows_again write_turns

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
