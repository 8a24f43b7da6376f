-- Results of a workflow's jobs, a portion of them: as many as fit into `most` bytes, and one at least.
-- Memory: no-writes.
-- KEYS: 1 wr:.
-- ARGV: 1 most bytes, 2 number of the first job to look at, 3 number of jobs.
-- Returns: {number to go on from or -1, per job that has a result: its number, the result}
local reply, bytes = {-1}, 0
for number = tonumber(ARGV[2]), ARGV[3] - 1 do
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
