-- Whether the caller holds the job's lease. '' for a worker or lease that the caller did not name.
local function is_holder(job, worker, lease)
    if lease ~= '' and lease ~= job[F.lease] then return false end
    return worker == '' or worker == (job[F.worker] or '')
end
