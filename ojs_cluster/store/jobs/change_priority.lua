-- Gives a waiting job another priority.
-- Pre:  the job is pending, scheduled, available or retryable.
-- Post: an available job keeps its order of arrival among the jobs of its new priority. So does a blocked job
--       among the jobs of its rate limit key.
-- Memory: allow-oom; adds 100 bytes, and an entry of the history (1 KiB).
-- KEYS: 1 job.
-- ARGV: 1 priority, 2 history (see set_history).
-- Returns: {'ok', fields} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state}
--@include keys now preflight remove_one read_job change_counters append_effect finish_job remove_from_queue
--@include priority_base record_history
set_history(ARGV[2])
local key, priority = KEYS[1], tonumber(ARGV[1])
local job, reply = load_job(key)
if not job then return reply end
local id, state, queue = job_id_of(key), job[F.state], job[F.queue]
if is_terminal(state) or state == 'active' then return {'conflict', state} end
local limited = job[F.limit] and limit_of(job)
local zsets = {queue_available_key(queue), queue_blocked_key(queue)}
if limited then
    zsets[3], zsets[4] = token_unrequested_key(queue, limited), token_requested_key(queue, limited)
end
for _, zset in ipairs(zsets) do preflight_key(zset) end
run_preflight()
-- In each of these sets, the job has the same score: its priority's band plus its order of arrival.
local shift = band_of(priority) - band_of(job[F.priority] or 0)
if state == 'available' and shift ~= 0 then
    for _, zset in ipairs(zsets) do
        local place = redis.call('ZSCORE', zset, id)
        if place then redis.call('ZADD', zset, string.format('%.0f', place + shift), id) end
    end
    if limited then update_token_demand(queue, limited, redis.call('ZCARD', zsets[4]) == 0) end
end
if shift ~= 0 then
    local members = string.format(',"from":%.0f,"to":%.0f', job[F.priority] or 0, priority)
    record_history(key, job, 'priority', members)
end
save_job(key, job, F.priority, priority)
return {'ok', job.field_list}
