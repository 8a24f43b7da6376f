-- Reads the inputs of a workflow's job: its definition, and a portion of the results of jobs before it.
-- Memory: no-writes.
-- KEYS: 1 wd:<id>, 2 wr:<id>.
-- ARGV: 1 number of the job ('' for no definition), 2 maximum bytes of the results of this reply and of all
--       later ones, 3 maximum bytes of this reply (one value alone may be larger), then numbers of the jobs
--       whose results are wanted, the most important first.
-- Returns: {definition or '', ARGV[2] minus the bytes of the results of this reply, per job: its result or ''}
--          A result that exceeds the maximum bytes is left out (''). The reply ends before the first job
--          whose result does not fit into it.
local DEFINITIONS, RESULTS = KEYS[1], KEYS[2]
local job, remaining, max_reply = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local reply = {job ~= '' and redis.call('HGET', DEFINITIONS, job) or ''}
local bytes = #reply[1]
for i = 4, #ARGV do
    local size = redis.call('HSTRLEN', RESULTS, ARGV[i])
    local included = size > 0 and size <= remaining
    if included and bytes > 0 and bytes + size > max_reply then break end
    if included then remaining, bytes = remaining - size, bytes + size end
    reply[i - 1] = included and redis.call('HGET', RESULTS, ARGV[i]) or ''
end
reply[2] = remaining
return reply
