-- Read results of a workflow's jobs: as many as fit into the byte limit, and at least one if there is any.
-- At most 2000 jobs are read per call, because many of them may have no result.
-- Memory: no-writes.
-- KEYS: 1 workflow_results.
-- ARGV: 1 maximum bytes of all results, 2 number of the first job to read, 3 number of jobs in the workflow.
-- Returns: {number of the first job for the next call, or -1 at the end,
--           then per job with a result: its number, the result}
local MAX_JOBS = 2000
local results_key, max_bytes = KEYS[1], tonumber(ARGV[1])
local first, jobs = tonumber(ARGV[2]), tonumber(ARGV[3])
local reply, bytes = {-1}, 0
local stop = math.min(first + MAX_JOBS, jobs)
if stop < jobs then reply[1] = stop end
for number = first, stop - 1 do
    local size = redis.call('HSTRLEN', results_key, number)
    if bytes > 0 and bytes + size > max_bytes then
        reply[1] = number
        break
    end
    if size > 0 then
        bytes = bytes + size
        reply[#reply + 1] = number
        reply[#reply + 1] = redis.call('HGET', results_key, number)
    end
end
return reply
