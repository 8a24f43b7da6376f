-- Reads the inputs of a workflow's job: its definition, and a portion of the results of jobs before it.
-- Memory: no-writes.
-- KEYS: 1 wd:<id>, 2 wr:<id>.
-- ARGV: 1 job's number or '' for no definition, 2 most bytes of all results, 3 most bytes of this reply,
--       unless one value alone is larger, then numbers of the jobs whose results are wanted, the most
--       important first.
-- Returns: {definition or '', bytes that are left of all, per job: its result or ''}; '' also for a result
--          larger than what is left. It ends before the first job whose result is for a later reply.
local DEFINITIONS, RESULTS = KEYS[1], KEYS[2]
local job, left, max_reply = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local reply = {job ~= '' and redis.call('HGET', DEFINITIONS, job) or ''}
local bytes = #reply[1]
for i = 4, #ARGV do
    local size = redis.call('HSTRLEN', RESULTS, ARGV[i])
    local included = size > 0 and size <= left
    if included and bytes > 0 and bytes + size > max_reply then break end
    if included then left, bytes = left - size, bytes + size end
    reply[i - 1] = included and redis.call('HGET', RESULTS, ARGV[i]) or ''
end
reply[2] = left
return reply
