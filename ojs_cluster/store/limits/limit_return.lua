-- Transition: available (may start) -> available (waiting for a token), for jobs that nobody fetched.
-- Post: their tokens go back; a fetch of the queue asks again. Those who have waited long for an answer
--       ask once more, since asks may be lost with a master.
-- Memory: allow-oom; per job 300 bytes.
-- KEYS: 1..3 the shard's grants, ob, out.  ARGV: 1 limit.
-- Returns: {jobs, now, ms of the next or -1, effects}
--@include keys now preflight remove_many lowest_remaining load_jobs set_deadline append_effect
--@include finish_job remove_from_queue
local ids = redis.call('ZRANGEBYSCORE', TOKEN_GRANTS, '-inf', now, 'LIMIT', 0, ARGV[1])
local jobs = {}
for _, id in ipairs(ids) do
    local job = load_small_fields(job_key(id))
    jobs[id] = job
    if job then preflight_key(queue_available_key(job[F.queue])) end
end
run_preflight()
local ASK_AGAIN_MS = 300 * 1000
for _, id in ipairs(ids) do
    local job = jobs[id]
    if job and job[F.asked] then
        redis.call('ZADD', TOKEN_GRANTS, now + ASK_AGAIN_MS, id)
        append_effect('token_request', job[F.limit] .. ' ' .. id .. '/' .. job[F.asked])
    else
        remove_member(TOKEN_GRANTS, id)
    end
    if job and job[F.state] == 'available' and job[F.token] then
        local queue, key = job[F.queue], limit_of(job)
        local score = redis.call('ZSCORE', queue_available_key(queue), id)
        if score then -- one that was quarantined meanwhile is not in its queue
            remove_member(queue_available_key(queue), id)
            redis.call('ZADD', queue_blocked_key(queue), score, id)
            redis.call('ZADD', token_unrequested_key(queue, key), score, id)
            may_ask(queue, key, remaining_members(token_requested_key(queue, key)) == 0)
        end
        return_token(id, job, 'u')
    end
end
local following = lowest_remaining(TOKEN_GRANTS)
flush_removals()
return {#ids, now, following or -1, effects}
