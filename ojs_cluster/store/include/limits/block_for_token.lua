-- Jobs that need a token of their rate limit key before they may start (docs/adr/011). A fetch moves such a job
-- to the blocked jobs under its old score, and requests a token from the shard of the key. The field `state` of the job
-- stays 'available'. A blocked job is unrequested or requested:
--
--   state        sets                                          field               next state
--   available    queue_available                               none                unrequested (block_job)
--   unrequested  queue_blocked, token_unrequested              none                requested (request_tokens)
--   requested    queue_blocked, token_requested, token_grants  open_token_request  granted (limit_grant.lua)
--   granted      queue_available, token_grants                 token               active (a fetch)
--
-- limit_grant.lua makes a requested job unrequested again if no fetch wants jobs of the queue, and schedules or
-- discards it if its limit refuses. limit_return.lua makes a granted job unrequested if no fetch takes it in time, and
-- repeats a request without an answer. `token_demand` of the queue has the keys with unrequested jobs.
--@include add_later
local MAX_OPEN_REQUESTS = 100 -- maximum number of unanswered requests for one key in one queue
local MAX_KEYS_PER_FETCH = 16
-- For a fetch of one tenant: how many jobs of others it may still pass, and how many of one key at most, and
-- how many keys it may still check.
local OTHERS_PER_KEY = 20
local others_left, keys_left = 400, 100
local REQUEST_AGAIN_MS = 300 * 1000 -- a failover may lose a request: see limit_return.lua
-- queue -> key -> {jobs: its blocked jobs that this fetch knows, read: they were read from Redis, idle: the key
-- had no pending request}.
local blocked_jobs = {}

-- Returns how many tokens one queue may request: `max_requests` in all, `per_key` for one key, for the first
-- `max_keys` keys of its demand.
-- `idle_keys`: number of keys without a pending request that may request tokens. If there are such keys, only
-- they request tokens, because the requests of the others are answered soon. If it is 0, every key may.
local function request_budget(idle_keys, wanted)
    if idle_keys == 0 then
        return {max_requests = wanted, per_key = wanted, max_keys = MAX_KEYS_PER_FETCH, any_key = true}
    end
    return {max_requests = math.max(wanted, idle_keys), per_key = math.max(1, math.floor(wanted / idle_keys)),
        max_keys = idle_keys}
end

-- Reads, before the first write, the first blocked jobs of a queue. For each key it reads the jobs that may
-- request a token and the next one, which afterwards decides the key's place in the demand. `tenant`: only its
-- jobs may request tokens, '' for all. Those of others are read too, because they keep their places.
local function preflight_blocked_jobs(queue, budget, tenant)
    local keys, requests_left, any = {}, budget.max_requests, tenant == ''
    local max_keys = any and budget.max_keys or math.max(budget.max_keys, keys_left)
    blocked_jobs[queue.name] = keys
    local rows = redis.call('ZRANGE', queue.demand, 0, max_keys - 1, 'WITHSCORES')
    keys_left = keys_left - #rows / 2
    for i = 1, #rows, 2 do
        -- Keys without a pending request have negative scores (see update_token_demand).
        local key, idle = rows[i], tonumber(rows[i + 1]) < 0
        if requests_left <= 0 or others_left < 0 or not idle and not budget.any_key then break end
        local unrequested, jobs = token_unrequested_key(queue.name, key), {}
        local last, own, others = math.min(requests_left, budget.per_key), 0, math.min(others_left, OTHERS_PER_KEY)
        local best = redis.call('ZRANGE', unrequested, 0, last + (any and 0 or others), 'WITHSCORES')
        for j = 1, #best, 2 do
            if own > last or others < 0 then break end
            local limit, requests, job_tenant =
                unpack(redis.call('HMGET', job_key(best[j]), F.limit, F.token_request_count, F.tenant))
            if limit then
                local is_other = not any and job_tenant ~= tenant
                if is_other then others, others_left = others - 1, others_left - 1 else own = own + 1 end
                table.insert(jobs, {id = best[j], score = tonumber(best[j + 1]), limit = limit,
                    requests = tonumber(requests) or 0, is_unrequested = true, is_other = is_other})
            else
                preflight_key(job_key(best[j]))
            end
        end
        keys[key] = {jobs = jobs, read = true, idle = idle}
        requests_left = requests_left - math.min(own, budget.per_key)
        local requested = token_requested_key(queue.name, key)
        for _, name in ipairs({unrequested, requested, TOKEN_GRANTS, OUTBOX, OUTBOX_DUE}) do
            preflight_key(name)
        end
    end
end

-- Moves a job from the available jobs of its queue to the blocked jobs.
local function block_job(queue, id, job, score)
    local key, keys = limit_of(job), blocked_jobs[queue.name]
    keys[key] = keys[key] or {jobs = {}}
    table.insert(keys[key].jobs, {id = id, score = score, limit = job[F.limit],
        requests = job[F.token_request_count] or 0})
    if job[F.parked] then leave_parked(id, job) end
    remove_member(queue.available, id)
    unindex_for_tenant(id, job)
    add_later(queue.blocked, score, id)
end
