-- Returns whether the caller holds the job's lease. `worker` and `lease` are the ids that the caller has named,
-- each '' if it has named none. A caller that names neither counts as the holder.
local function is_holder(job, worker, lease)
    if lease ~= '' and lease ~= job[F.lease] then return false end
    return worker == '' or worker == (job[F.worker] or '')
end
