-- Records that the references of jobs to other shards were checked.
-- Pre:  the job was not added to the index again since it was read.
-- Post: a job with the result 'done' is removed from the index. A job with the result 'later' is checked again
--       after the same time.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 references.
-- ARGV: 1 age (ms) at which jobs are checked, then per job: id, result.
--       result: 'done' | 'later'
-- Returns: number of jobs removed from the index
--@include now
local references, age = KEYS[1], tonumber(ARGV[1])
local done = {}
for i = 2, #ARGV, 2 do
    local id, result = ARGV[i], ARGV[i + 1]
    local since = redis.call('ZSCORE', references, id)
    if since and now - since >= age then
        if result == 'done' then done[#done + 1] = id
        else redis.call('ZADD', references, now, id) end
    end
end
-- Removals come last: an emptied set is deleted, and its key cannot be touched again (see preflight.lua).
if #done > 0 then redis.call('ZREM', references, unpack(done)) end
return #done
