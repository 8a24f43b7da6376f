-- Results of a workflow's jobs, a portion of them: as many as fit into `most` bytes, and one at least where
-- there are any. Of many jobs without a result the first 2000.
-- Memory: no-writes.
-- KEYS: 1 wr:.
-- ARGV: 1 most bytes, 2 number of the first job to look at, 3 number of jobs.
-- Returns: {number to go on from or -1, per job that has a result: its number, the result}
local first, jobs, reply, bytes = tonumber(ARGV[2]), tonumber(ARGV[3]), {-1}, 0
local after = math.min(first + 2000, jobs)
if after < jobs then reply[1] = after end
for number = first, after - 1 do
    local size = redis.call('HSTRLEN', KEYS[1], number)
    if bytes > 0 and bytes + size > tonumber(ARGV[1]) then
        reply[1] = number
        break
    end
    if size > 0 then
        bytes = bytes + size
        reply[#reply + 1] = number
        reply[#reply + 1] = redis.call('HGET', KEYS[1], number)
    end
end
return reply
