-- Transition: terminal -> deleted, for jobs of one shard whose retention is over.
-- Post: no key of such a job remains in the shard. A job whose retention was extended stays. If the ids map to
--       other shards, the janitor checks later whether an alias is left there (see references.py).
-- Memory: allow-oom; per job 100 bytes, less than it removes.
-- KEYS: 1 finished, 2 dead, 3 expiring, 4 references, then the jobs.
-- ARGV: 1 '1' when the ids map to other shards, else ''.
-- Returns: number of jobs that were deleted or missing
--@include keys now preflight remove_many read_job change_counters delete_job
local foreign_ids = ARGV[1] == '1'
local expired, missing = {}, {}
for i = 5, #KEYS do
    local key, id = KEYS[i], job_id_of(KEYS[i])
    local job, reply = load_index_fields(key)
    local due = job and redis.call('ZSCORE', FINISHED, id)
    if due and tonumber(due) <= now then
        preflight_delete(job)
        expired[#expired + 1] = {id, key, job}
    elseif not job and reply[1] == 'missing' then
        missing[#missing + 1] = id
    end
end
run_preflight()
for _, entry in ipairs(expired) do
    delete_job(unpack(entry))
    if foreign_ids then redis.call('ZADD', REFERENCES, now, entry[1]) end
end
for _, id in ipairs(missing) do remove_member(FINISHED, id) end
flush_removals()
flush_counters()
return #expired + #missing
