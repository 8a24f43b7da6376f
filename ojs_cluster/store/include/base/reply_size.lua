-- The size of a job in a reply. A reply that the client refuses for its size would leave leases that no
-- worker knows of, and a MiB blocks Redis for more than a ms. The largest waiting job has 2.7 MiB with the
-- default limits: envelope, results of earlier steps, errors. So a full reply and one more job stay below
-- 5 MiB. A caller that wants more calls again (store/fetch/fetch.py).
local MOST_BYTES = 2 * 1024 * 1024

local function size_of(job)
    if not job[F.errors] then return #job[F.envelope] + #(job[F.parents] or '') + #(job[F.progress_data] or '') end
    local bytes = 0
    for i = 2, #job.flat, 2 do bytes = bytes + #job.flat[i] end
    return bytes
end
