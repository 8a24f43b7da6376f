-- What a workflow's job is made of: its definition, and the results of jobs before it, a portion of them.
-- Memory: no-writes.
-- KEYS: 1 wd:, 2 wr:.
-- ARGV: 1 job's number or '' for no definition, 2 most bytes of all results, 3 most bytes of this reply,
--       unless one value alone is larger, then numbers of the jobs whose results are wanted, the most
--       important first.
-- Returns: {definition or '', how many bytes of all are left, per job: its result or ''}; '' also for a
--          result larger than what is left. It ends before the first job whose result is for a later reply.
local reply = {ARGV[1] ~= '' and redis.call('HGET', KEYS[1], ARGV[1]) or ''}
local left, most, bytes = tonumber(ARGV[2]), tonumber(ARGV[3]), #reply[1]
for i = 4, #ARGV do
    local size = redis.call('HSTRLEN', KEYS[2], ARGV[i])
    local shown = size > 0 and size <= left
    if shown and bytes > 0 and bytes + size > most then break end
    if shown then left, bytes = left - size, bytes + size end
    reply[i - 1] = shown and redis.call('HGET', KEYS[2], ARGV[i]) or ''
end
reply[2] = left
return reply
