-- Parked jobs (docs/adr/066): a fetch that names types takes jobs of other types out of its way. A parked job is
-- among the blocked jobs of its queue, with the score that it had among the available jobs, and in the indexes that
-- parked_keys.lua names. A fetch that can run it takes it from there (merged_rows.lua).
--
-- An earlier version of the server does not know parked jobs, and no fetch would get them after a rollback. So they
-- are quarantined, too: its reaper returns a valid job to its queue. That of this version keeps it parked.

-- Removes a parked job from its indexes, but not from the blocked jobs. Its keys were read before the first write.
local function leave_parked(id, job)
    redis.call('HDEL', job_key(id), F.parked)
    for _, key in ipairs(parked_keys(job)) do remove_member(key, id) end
    remove_member(QUARANTINE, id)
end
