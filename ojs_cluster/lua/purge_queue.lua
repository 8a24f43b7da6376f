-- Transition: available -> gone, for up to `limit` jobs of one queue, lowest place first.
-- Post: as purge.lua; jobs that others must hear of (their id names another shard, or they are
--       part of a workflow or hold a unique lock) are only listed.
-- KEYS: 1 q:, 2 c:, 3..5 the shard's fin, dead, exp.
-- ARGV: 1 limit, 2 this shard's index, 3 number of shards.
-- Returns: {jobs removed, ids only listed, jobs still there}
--@include keys look last job forget
local removed, foreign, ours = 0, {}, {}
local ids = redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)
local jobs = load_jobs(ids)
for _, id in ipairs(ids) do
    local here = tonumber(string.sub(id, 16, 18), 16) % tonumber(ARGV[3]) == tonumber(ARGV[2])
    local others = jobs[id] and (jobs[id][F.workflow] or jobs[id][F.unique])
    table.insert(here and not others and ours or foreign, id)
end
for _, id in ipairs(ours) do
    if jobs[id] then want_to_forget(jobs[id]) end
end
look()

for _, id in ipairs(ours) do
    if jobs[id] then forget(id, job_key(id), jobs[id]) else take_out(KEYS[1], id) end
    removed = removed + 1
end
local left = redis.call('ZCARD', KEYS[1]) - #(leaving[KEYS[1]] or {})
settle()
return {removed, foreign, left}
