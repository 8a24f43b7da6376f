-- How much of a reply a job fills. One that the client refuses for its size would leave leases that nobody
-- knows of, and a MiB keeps Redis from everybody else for more than a ms. The largest job that waits has
-- 2.7 MiB with the default limits: envelope, results of steps before it, errors. So this and one more stay
-- below 5 MiB. A caller that wants more asks again (store/fetch/fetch.py).
local MOST_BYTES = 2 * 1024 * 1024

local function size_of(job)
    if not job[F.errors] then return #job[F.envelope] + #(job[F.parents] or '') end
    local bytes = 0
    for i = 2, #job.flat, 2 do bytes = bytes + #job.flat[i] end
    return bytes
end
