-- Transition: available (blocked) -> available (may start) | scheduled | discarded.
-- Pre:  the job has this request pending. A token for any other request is returned, unless the job already
--       has this token.
-- Post: granted, and a fetch has found blocked jobs in the queue in the last DEMAND_MS: the job has its old
--       place in its queue, and GRANT_MS to be fetched.
--       granted, and no such fetch: the token is returned. The requests of the job and of up to MAX_OTHERS
--       other jobs of the key in this queue are canceled.
--       refused: the job is scheduled for later, or discarded, as the on_limit of its limit says.
-- Memory: allow-oom; per job 300 bytes.
-- KEYS: 1 due, 2 expiring, 3 finished, 4 events, 5 outbox, 6 outbox_due.
-- ARGV: 1 events kept, 2 answer:
--         '+'     granted
--         '+w'    granted, and the start must be reported with a token_start effect
--         'r<ms>' refused: scheduled in that many ms
--         'd<ms>' refused: discarded
--       3 ms to keep discarded jobs, 4 rate limit key, 5.. requests: <job id>/<request number>.
-- Returns: effects
--@include keys now preflight remove_many load_jobs change_counters append_event set_deadline
--@include append_effect make_available finish_job remove_from_queue
begin_events(ARGV[1])
local GRANT_MS, DEMAND_MS, MAX_OTHERS = 2000, 7000, 200
local answer, keep_ms, key = ARGV[2], ARGV[3], ARGV[4]
local decision, delay = string.match(answer, '^(.)w?(%d*)$')
local granted, others_to_read = decision == '+', MAX_OTHERS
-- queues: by name. has_demand: whether a fetch has found blocked jobs in the queue in the last DEMAND_MS.
-- others: pairs of id and job; the requests of these jobs are canceled too if the queue has no demand.
-- answered: pairs of id and job. unused: text ' <id>/<number>' for each token or request to return.
local queues, answered, unused = {}, {}, ''
for i = 5, #ARGV do
    local id, number = string.match(ARGV[i], '^(.*)/(%d+)$')
    local job = load_small_fields(job_key(id))
    if job and job[F.open_token_request] == number then
        local queue = job[F.queue]
        answered[#answered + 1] = {id, job}
        preflight_key(queue_counters_key(queue))
        preflight_key(queue_available_key(queue))
        queues[queue] = queues[queue] or {others = {}}
    elseif not job or string.match(job[F.token] or '', '^%d*') ~= number then
        unused = unused .. ' ' .. ARGV[i]
    end
end
for queue, state in pairs(queues) do
    local demand_at = redis.call('HGET', queue_counters_key(queue), 'demand_at')
    state.has_demand = demand_at and now - demand_at < DEMAND_MS
    if granted and not state.has_demand and others_to_read > 0 then
        for _, id in ipairs(redis.call('ZRANGE', token_requested_key(queue, key), 0, others_to_read - 1)) do
            state.others[#state.others + 1] = {id, load_small_fields(job_key(id)) or nil}
        end
        others_to_read = others_to_read - #state.others
    end
end
run_preflight()

local function cancel_request(queue, id, job)
    local score = redis.call('ZSCORE', queue_blocked_key(queue), id)
    unused = unused .. ' ' .. id .. '/' .. job[F.open_token_request]
    remove_member(token_requested_key(queue, key), id)
    remove_member(TOKEN_GRANTS, id)
    drop_fields(job_key(id), job, F.open_token_request)
    redis.call('ZADD', token_unrequested_key(queue, key), score, id)
end

local canceled = {}
for _, pair in ipairs(answered) do
    local id, job = pair[1], pair[2]
    local queue, score = job[F.queue], redis.call('ZSCORE', queue_blocked_key(job[F.queue]), id)
    if granted and queues[queue].has_demand then
        remove_member(queue_blocked_key(queue), id)
        remove_member(token_requested_key(queue, key), id)
        local number = job[F.open_token_request]
        drop_fields(job_key(id), job, F.open_token_request)
        save_job(job_key(id), job, F.token, number .. string.sub(answer, 2))
        redis.call('ZADD', queue_available_key(queue), score, id)
        if job[F.tenant] then index_for_tenant(id, job, score) end
        set_deadline(TOKEN_GRANTS, id, now + GRANT_MS)
        redis.call('SPUBLISH', WAKE_CHANNEL, queue)
    elseif granted then
        canceled[id] = true
        cancel_request(queue, id, job)
    else
        remove_member(queue_blocked_key(queue), id)
        remove_member(token_requested_key(queue, key), id)
        remove_member(TOKEN_GRANTS, id)
        drop_fields(job_key(id), job, F.open_token_request)
        leave_tenant_queue(id, job)
        if decision == 'd' then
            if job[F.expires] then remove_member(EXPIRING, id) end
            finish(id, job_key(id), job, 'discarded', keep_ms)
            emit('rate_limit.dropped', id, job, 'k', key)
            emit('job.discarded', id, job, 'f', 'available', 'a', job[F.attempt] or 0, 'e',
                -- store/features/events/content.py adds the closing brace.
                '{"code":"rate_limited","message":"the limit of its key was reached"')
        else
            save_job(job_key(id), job, F.state, 'scheduled', F.due, now + delay)
            count_job(job, 'scheduled', 1)
            set_deadline(DUE, id, now + delay)
            emit('job.scheduled', id, job, 'f', 'available', 'n', job[F.due])
        end
    end
end
for queue, state in pairs(queues) do
    for _, other in ipairs(state.others) do
        if other[2] and not canceled[other[1]] then cancel_request(queue, other[1], other[2]) end
    end
    update_token_demand(queue, key, remaining_members(token_requested_key(queue, key)) == 0)
end
if unused ~= '' then append_effect('token_return', key .. ' u' .. unused) end
flush_removals()
flush_counters()
return effects
