-- What a workflow's job is made of: its definition, and the results of jobs before it.
-- Memory: no-writes.
-- KEYS: 1 wd:, 2 wr:.
-- ARGV: 1 job's number or '' for no definition, 2 most bytes of results,
--       then numbers of the jobs whose results are wanted, the most important first.
-- Returns: {definition or '', per job: its result or ''}; '' also for what is beyond the bound
local reply = {ARGV[1] ~= '' and redis.call('HGET', KEYS[1], ARGV[1]) or ''}
local budget = tonumber(ARGV[2])
for i = 3, #ARGV do
    local size = redis.call('HSTRLEN', KEYS[2], ARGV[i])
    reply[#reply + 1] = ''
    if size > 0 and size <= budget then
        budget = budget - size
        reply[#reply] = redis.call('HGET', KEYS[2], ARGV[i])
    end
end
return reply
