-- References of jobs to other shards were checked.
-- Pre:  the job did not come into the set again since it was read.
-- Post: 'done': the job is in the set no more; 'later': it is checked again.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the shard's references.
-- ARGV: 1 age (ms) from which on they are checked, then per job: id, 'done' | 'later'.
-- Returns: how many left
--@include now
local done = {}
for i = 2, #ARGV, 2 do
    local since = redis.call('ZSCORE', KEYS[1], ARGV[i])
    if since and now - since >= tonumber(ARGV[1]) then
        if ARGV[i + 1] == 'done' then done[#done + 1] = ARGV[i]
        else redis.call('ZADD', KEYS[1], now, ARGV[i]) end
    end
end
-- Last, and at once: a set that becomes empty vanishes (see look.lua).
if #done > 0 then redis.call('ZREM', KEYS[1], unpack(done)) end
return #done
