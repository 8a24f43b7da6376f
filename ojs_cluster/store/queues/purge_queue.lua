-- Transition: available -> gone, for up to `limit` jobs of one queue, lowest place first; for fewer when
-- they are large.
-- Post: as purge.lua; jobs that others must hear of (their id names another shard, or they are
--       part of a workflow, hold a unique lock, or have a rate limit's key) or whose id was fixed in
--       advance are only listed, and so are malformed ones.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 q:, 2 c:, 3..5 the shard's fin, dead, exp, 6 h:.
-- ARGV: 1 limit, 2 this shard's index, 3 number of shards.
-- Returns: {jobs removed, ids only listed, jobs still there}
--@include keys preflight remove_many read_job change_counters delete_job
local foreign, ours, jobs, bytes = {}, {}, {}, 0
local ids = redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)
if #ids < tonumber(ARGV[1]) then
    local held = redis.call('ZRANGE', KEYS[6], 0, ARGV[1] - 1 - #ids)
    for _, id in ipairs(held) do ids[#ids + 1] = id end
end
for _, id in ipairs(ids) do
    if bytes >= MOST_FREED then break end
    local key = job_key(id)
    local here = tonumber(string.sub(id, 16, 18), 16) % tonumber(ARGV[3]) == tonumber(ARGV[2])
    local job, reply = load_index_fields(key)
    local others = redis.call('HMGET', key, F.workflow, F.unique, F.limit, F.fixed)
    local heard = others[1] or others[2] or others[3] or others[4]
    if here and not heard and not is_malformed(reply) then
        ours[#ours + 1], jobs[id] = id, job or false
        if job then
            preflight_delete(job)
            bytes = bytes + freed_bytes(key)
        end
    else
        foreign[#foreign + 1] = id
    end
end
run_preflight()

for _, id in ipairs(ours) do
    if jobs[id] then delete_job(id, job_key(id), jobs[id]) else remove_member(KEYS[1], id) end
end
local left = redis.call('ZCARD', KEYS[1]) - #(removals[KEYS[1]] or {}) + redis.call('ZCARD', KEYS[6])
flush_removals()
flush_counters()
return {#ours, foreign, left}
