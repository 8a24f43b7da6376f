-- Transition: available (may start) -> available (blocked), for jobs that were not fetched in time.
-- Post: the tokens of these jobs are returned; a fetch of the queue requests tokens again. A request without
--       an answer for REQUEST_AGAIN_MS is sent again, because a failover may have lost it.
-- Memory: allow-oom; per job 300 bytes.
-- KEYS: 1 token_grants, 2 outbox, 3 outbox_due.  ARGV: 1 maximum number of jobs.
-- Returns: {number of jobs, now, ms at which the next job is due or -1, effects}
--@include keys now preflight remove_many lowest_remaining load_jobs set_deadline append_effect
--@include finish_job remove_from_queue
local max_jobs = ARGV[1]
local ids = redis.call('ZRANGEBYSCORE', TOKEN_GRANTS, '-inf', now, 'LIMIT', 0, max_jobs)
local jobs = {}
for _, id in ipairs(ids) do
    local job = load_small_fields(job_key(id))
    jobs[id] = job
    if job then preflight_key(queue_available_key(job[F.queue])) end
end
run_preflight()
local REQUEST_AGAIN_MS = 300 * 1000
for _, id in ipairs(ids) do
    local job = jobs[id]
    if job and job[F.open_token_request] then
        redis.call('ZADD', TOKEN_GRANTS, now + REQUEST_AGAIN_MS, id)
        append_effect('token_request', job[F.limit] .. ' ' .. id .. '/' .. job[F.open_token_request])
    else
        remove_member(TOKEN_GRANTS, id)
    end
    if job and job[F.state] == 'available' and job[F.token] then
        local queue, key = job[F.queue], limit_of(job)
        local score = redis.call('ZSCORE', queue_available_key(queue), id)
        if score then -- a quarantined job is not in its queue
            remove_member(queue_available_key(queue), id)
            unindex_for_tenant(id, job)
            redis.call('ZADD', queue_blocked_key(queue), score, id)
            redis.call('ZADD', token_unrequested_key(queue, key), score, id)
            update_token_demand(queue, key, remaining_members(token_requested_key(queue, key)) == 0)
        end
        return_token(id, job, 'u')
    end
end
local next_due = lowest_remaining(TOKEN_GRANTS)
flush_removals()
return {#ids, now, next_due or -1, effects}
