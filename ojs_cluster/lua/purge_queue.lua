-- Transition: available -> gone, for up to `limit` jobs of one queue, lowest place first.
-- Post: as purge.lua; jobs whose id names another shard are only listed.
-- KEYS: 1 q:, 2 c:, 3..5 the shard's fin, dead, exp.
-- ARGV: 1 limit, 2 this shard's index, 3 number of shards.
-- Returns: {jobs removed, ids that name another shard, jobs still there}
--@include keys look last job forget
local removed, foreign, ours = 0, {}, {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)) do
    local here = tonumber(string.sub(id, 16, 18), 16) % tonumber(ARGV[3]) == tonumber(ARGV[2])
    table.insert(here and ours or foreign, id)
end
local jobs = load_jobs(ours)
for _, job in pairs(jobs) do
    if job then want_to_forget(job) end
end
look()

for _, id in ipairs(ours) do
    if jobs[id] then forget(id, job_key(id), jobs[id]) else take_out(KEYS[1], id) end
    removed = removed + 1
end
local left = redis.call('ZCARD', KEYS[1]) - #(leaving[KEYS[1]] or {})
settle()
return {removed, foreign, left}
