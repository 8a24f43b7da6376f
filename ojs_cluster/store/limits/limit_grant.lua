-- Transition: available (waiting for a token) -> available (may start) | scheduled | discarded.
-- Pre:  the job has asked for this token and was not answered. Every other token that is offered goes
--       back at once, unless the job has it already.
-- Post: granted: the job has its old place in its queue and a few seconds to be fetched, if anybody has
--       looked for jobs there lately; if not, they and others who ask for the key there, 200 at
--       most, take their asks back.
--       refused: scheduled for later, or discarded, as its policy says.
-- Memory: allow-oom; per job 300 bytes.
-- KEYS: 1..6 the shard's due, exp, fin, ev, ob, out.
-- ARGV: 1 events kept, 2 '+' granted | '+w' granted, and its start counts | 'r<ms>' scheduled in so many
--       ms | 'd<ms>' discarded, 3 ms to keep discarded jobs, 4 key, 5.. asks: id/number.
-- Returns: effects
--@include keys now preflight remove_many load_jobs change_counters append_event set_deadline
--@include append_effect make_available finish_job remove_from_queue
local GRANT_MS, HUNGRY_MS = 2000, 7000
local granted, most_others = string.sub(ARGV[2], 1, 1) == '+', 200
local key, queues, fits, stale = ARGV[4], {}, {}, ''
for i = 5, #ARGV do
    local id, number = string.match(ARGV[i], '^(.*)/(%d+)$')
    local job = load_small_fields(job_key(id))
    if job and job[F.asked] == number then
        local queue = job[F.queue]
        fits[#fits + 1] = {id, job}
        preflight_key(queue_counters_key(queue))
        preflight_key(queue_available_key(queue))
        queues[queue] = queues[queue] or {others = {}}
    elseif not job or string.match(job[F.token] or '', '^%d*') ~= number then
        stale = stale .. ' ' .. ARGV[i]
    end
end
for queue, state in pairs(queues) do
    local hungry = redis.call('HGET', queue_counters_key(queue), 'demand_at')
    state.looks = hungry and now - hungry < HUNGRY_MS
    if granted and not state.looks and most_others > 0 then
        for _, id in ipairs(redis.call('ZRANGE', token_requested_key(queue, key), 0, most_others - 1)) do
            state.others[#state.others + 1] = {id, load_small_fields(job_key(id)) or nil}
        end
        most_others = most_others - #state.others
    end
end
run_preflight()

local function ask_no_more(queue, id, job)
    local score = redis.call('ZSCORE', queue_blocked_key(queue), id)
    stale = stale .. ' ' .. id .. '/' .. job[F.asked]
    remove_member(token_requested_key(queue, key), id)
    remove_member(TOKEN_GRANTS, id)
    drop_fields(job_key(id), job, F.asked)
    redis.call('ZADD', token_unrequested_key(queue, key), score, id)
end

local done = {}
local verdict, delay = string.match(ARGV[2], '^(.)w?(%d*)$')
for _, fit in ipairs(fits) do
    local id, job = fit[1], fit[2]
    local queue, score = job[F.queue], redis.call('ZSCORE', queue_blocked_key(job[F.queue]), id)
    if verdict == '+' and queues[queue].looks then
        remove_member(queue_blocked_key(queue), id)
        remove_member(token_requested_key(queue, key), id)
        local number = job[F.asked]
        drop_fields(job_key(id), job, F.asked)
        save_job(job_key(id), job, F.token, number .. string.sub(ARGV[2], 2))
        redis.call('ZADD', queue_available_key(queue), score, id)
        set_deadline(TOKEN_GRANTS, id, now + GRANT_MS)
        redis.call('SPUBLISH', WAKE_CHANNEL, queue)
    elseif verdict == '+' then
        done[id] = true
        ask_no_more(queue, id, job)
    else
        remove_member(queue_blocked_key(queue), id)
        remove_member(token_requested_key(queue, key), id)
        remove_member(TOKEN_GRANTS, id)
        drop_fields(job_key(id), job, F.asked)
        if verdict == 'd' then
            if job[F.expires] then remove_member(EXPIRING, id) end
            finish(id, job_key(id), job, 'discarded', ARGV[3])
            emit('rate_limit.dropped', id, job, 'k', key)
            emit('job.discarded', id, job, 'a', job[F.attempt] or 0, 'e',
                '{"code":"rate_limited","message":"the limit of its key was reached"')
        else
            save_job(job_key(id), job, F.state, 'scheduled', F.due, now + delay)
            count(queue, 'scheduled', 1)
            set_deadline(DUE, id, now + delay)
            emit('job.scheduled', id, job, 'n', job[F.due])
        end
    end
end
for queue, state in pairs(queues) do
    for _, other in ipairs(state.others) do
        if other[2] and not done[other[1]] then ask_no_more(queue, other[1], other[2]) end
    end
    may_ask(queue, key, remaining_members(token_requested_key(queue, key)) == 0)
end
if stale ~= '' then append_effect('token_return', key .. ' u' .. stale) end
flush_removals()
flush_counters()
return effects
