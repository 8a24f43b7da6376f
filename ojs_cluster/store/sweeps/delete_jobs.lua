-- Transition: terminal -> gone, for jobs of one shard, each by itself.
-- Pre:  its retention is over.
-- Post: no key of the job remains in the shard. That its alias has gone is checked once more.
-- Memory: allow-oom; per job 100 bytes, less than it removes.
-- KEYS: 1..4 the shard's fin, dead, exp, refs, then the jobs.
-- ARGV: 1 '1' when the ids name other shards.
-- Returns: how many of them are gone
--@include keys now preflight remove_many read_job change_counters delete_job
local over, missing = {}, {}
for i = 5, #KEYS do
    local key, id = KEYS[i], string.sub(KEYS[i], #P + 3)
    local job, reply = load_index_fields(key)
    local due = job and redis.call('ZSCORE', FINISHED, id)
    if due and tonumber(due) <= now then
        preflight_delete(job)
        over[#over + 1] = {id, key, job}
    elseif not job and reply[1] == 'missing' then
        missing[#missing + 1] = id
    end
end
run_preflight()
for _, entry in ipairs(over) do
    delete_job(unpack(entry))
    if ARGV[1] == '1' then redis.call('ZADD', REFERENCES, now, entry[1]) end
end
for _, id in ipairs(missing) do remove_member(FINISHED, id) end
flush_removals()
flush_counters()
return #over + #missing
