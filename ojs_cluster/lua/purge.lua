-- Transition: terminal -> gone, for up to `limit` jobs of one shard whose retention is over.
-- Post: no key of such a job remains in the shard. A job whose id names another shard is only
--       listed, and is no dead letter any more: its alias there goes first, then forget.lua takes
--       the job, so a crash between the two repeats and never leaves an alias behind.
-- KEYS: 1..3 the shard's fin, dead, exp.
-- ARGV: 1 limit, 2 this shard's index, 3 number of shards.
-- Returns: {jobs removed, ids that name another shard, now, ms of the next removal or -1}
--@include keys now look last first_left job counts forget
local ids = redis.call('ZRANGEBYSCORE', FINISHED, '-inf', now, 'LIMIT', 0, ARGV[1])
local jobs = load_jobs(ids)
for _, job in pairs(jobs) do
    if job then want_to_forget(job) end
end
look()

local removed, foreign = 0, {}
for _, id in ipairs(ids) do
    local key, job = job_key(id), jobs[id]
    if tonumber(string.sub(id, 16, 18), 16) % tonumber(ARGV[3]) ~= tonumber(ARGV[2]) then
        foreign[#foreign + 1] = id
        -- No retry by hand from here on: it would bring back a job whose alias is about to go.
        if job and job[F.dead] then
            take_out(DEAD, id)
            take_out(dead_key(job[F.queue]), id)
            drop_fields(key, job, F.dead)
        end
    else
        if job then forget(id, key, job) else take_out(FINISHED, id) end
        removed = removed + 1
    end
end
local following = first_left(FINISHED)
settle()
settle_counts()
return {removed, foreign, now, following or -1}
