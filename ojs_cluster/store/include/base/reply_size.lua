-- The size of a job in a reply, and the size at which a reply is full. The client refuses a reply that is too
-- large, and then no worker would know of the leases in it. Each MiB also blocks Redis for more than a ms. With
-- the default limits the largest waiting job has 2.7 MiB: its envelope, results of earlier workflow steps and
-- errors. A reply just below the bound may still get such a job, and stays below 5 MiB. The caller fetches the
-- remaining jobs with another call (store/engine/fetch/fetch.py).
local MAX_REPLY_BYTES = 2 * 1024 * 1024

-- Returns the size of the job's large fields in bytes; of a job with errors the size of all its values.
local function size_of(job)
    -- The checkpoint is counted by its stored size, because the fetch reads it only after this script.
    local bytes = job[F.checkpoint] and tonumber(string.match(job[F.checkpoint], '^%d+ (%d+) ')) or 0
    if not job[F.errors] then
        return bytes + #job[F.envelope] + #(job[F.parents] or '') + #(job[F.progress_data] or '')
            + #(job[F.history] or '') + #(job[F.agent] or '')
    end
    for i = 2, #job.field_list, 2 do bytes = bytes + #job.field_list[i] end
    return bytes
end
