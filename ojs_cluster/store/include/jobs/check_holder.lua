-- Who may finish an active job: the holder of its lease. '' means the caller did not say.
local function is_holder(job, worker, lease)
    if lease ~= '' and lease ~= job[F.lease] then return false end
    return worker == '' or worker == (job[F.worker] or '')
end
