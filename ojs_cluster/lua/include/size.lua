-- How much of a reply a job fills. One that the client refuses for its size would leave leases that nobody
-- knows of, and a MiB keeps Redis from everybody else for more than a ms. The largest job has some 11 MB
-- with the default limits (8 MiB of them are results of the steps before it), so this and one more stay
-- far below the client's 64 MiB. Whoever wants more asks again (store/fetch.py).
local MOST_BYTES = 2 * 1024 * 1024

local function size_of(job)
    if not job[F.errors] then return #job[F.envelope] + #(job[F.parents] or '') end
    local bytes = 0
    for i = 2, #job.flat, 2 do bytes = bytes + #job.flat[i] end
    return bytes
end
