-- Reads the blocked jobs for which a fetch may request tokens: see block_for_token.lua.
--@include block_for_token
-- For a fetch of one tenant: how many jobs of others it may still pass, and how many of one key at most, and
-- how many keys it may still check.
local OTHERS_PER_KEY = 20
local others_left, keys_left = 400, 100

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
