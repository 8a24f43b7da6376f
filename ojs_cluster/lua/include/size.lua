-- How much of a reply a job fills. One that the client refuses for its size would leave leases that nobody
-- knows of. The largest job has some 11 MB with the default limits (8 MiB of them are results of the steps
-- before it), so this and one more stay far below the client's 64 MiB.
local MOST_BYTES = 8 * 1024 * 1024

local function size_of(job)
    if not job[F.errors] then return #job[F.envelope] + #(job[F.parents] or '') end
    local bytes = 0
    for i = 2, #job.flat, 2 do bytes = bytes + #job.flat[i] end
    return bytes
end
