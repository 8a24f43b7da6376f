-- Removes ids without a job from the sorted set of an indexed value. A full set stays full: older jobs have left it,
-- and a search would take a smaller one for complete (see store/features/search/indexed.py).
-- Memory: allow-oom; removes members.
-- KEYS: 1 the set.
-- ARGV: 1.. ids.
-- Returns: number of removed ids
--@include keys preflight index_value
if redis.call('ZCARD', KEYS[1]) >= INDEXED_PER_VALUE then return 0 end
local unused = {}
for i, id in ipairs(ARGV) do preflight_key(job_key(id)) end
run_preflight()
for _, id in ipairs(ARGV) do
    if redis.call('EXISTS', job_key(id)) == 0 then unused[#unused + 1] = id end
end
call_in_slices('ZREM', KEYS[1], unused)
return #unused
