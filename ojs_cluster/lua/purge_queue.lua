-- Transition: available -> gone, for up to `limit` jobs of one queue, lowest place first.
-- Post: as purge.lua; jobs that others must hear of (their id names another shard, or they are
--       part of a workflow, hold a unique lock, or have a rate limit's key) or whose id was fixed in
--       advance are only listed.
-- KEYS: 1 q:, 2 c:, 3..5 the shard's fin, dead, exp, 6 h:.
-- ARGV: 1 limit, 2 this shard's index, 3 number of shards.
-- Returns: {jobs removed, ids only listed, jobs still there}
--@include keys look last job counts forget
local removed, foreign, ours = 0, {}, {}
local ids = redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)
if #ids < tonumber(ARGV[1]) then
    local held = redis.call('ZRANGE', KEYS[6], 0, ARGV[1] - 1 - #ids)
    for _, id in ipairs(held) do ids[#ids + 1] = id end
end
local jobs = load_jobs(ids)
for _, id in ipairs(ids) do
    local here = tonumber(string.sub(id, 16, 18), 16) % tonumber(ARGV[3]) == tonumber(ARGV[2])
    local job = jobs[id]
    local others = job and (job[F.workflow] or job[F.unique] or job[F.limit] or job[F.fixed])
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
local left = redis.call('ZCARD', KEYS[1]) - #(leaving[KEYS[1]] or {}) + redis.call('ZCARD', KEYS[6])
settle()
settle_counts()
return {removed, foreign, left}
