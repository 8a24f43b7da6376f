-- Jobs that need a token of their rate limit key before they may start (docs/adr/011): fetch blocks them, keeps
-- their place in the queue, and requests tokens from the shard of the key.
local MAX_OPEN_REQUESTS, MAX_KEYS_PER_FETCH = 100, 16
local REQUEST_AGAIN_MS = 300 * 1000 -- a failover may lose a request: see limit_return.lua
local blocked_jobs = {} -- queue -> key -> the blocked jobs of the key that this fetch knows
local additions = {} -- sorted set -> scores and members to add

local function add_later(zset, score, id)
    local list = additions[zset] or {}
    additions[zset] = list
    list[#list + 1], list[#list + 2] = score, id
end

local function flush_additions()
    for zset, list in pairs(additions) do call_in_slices('ZADD', zset, list) end
    additions = {}
end

-- Returns how many tokens may be requested: `most` in all, `each` for one key, for the first `keys` keys.
-- `width` 0: for the best jobs. Else: for as many keys as `width`, a few jobs each. Keys with a pending request
-- are left out then: such a key is full, or will answer soon.
local function request_budget(width, most)
    if width == 0 then return {most = most, each = most, keys = MAX_KEYS_PER_FETCH, full = true} end
    return {most = math.max(most, width), each = math.max(1, math.floor(most / width)), keys = width}
end

-- Reads, before the first write, the best blocked jobs of a queue: for each key one more than may request.
local function preflight_blocked_jobs(queue, budget)
    local keys, most = {}, budget.most
    blocked_jobs[queue.name] = keys
    local rows = redis.call('ZRANGE', queue.demand, 0, budget.keys - 1, 'WITHSCORES')
    for i = 1, #rows, 2 do
        local key, idle = rows[i], tonumber(rows[i + 1]) < 0
        if most <= 0 or not idle and not budget.full then break end
        local unrequested = token_unrequested_key(queue.name, key)
        local best, jobs = redis.call('ZRANGE', unrequested, 0, math.min(most, budget.each), 'WITHSCORES'), {}
        for j = 1, #best, 2 do
            local found = redis.call('HMGET', job_key(best[j]), F.limit, F.token_request_count)
            if found[1] then
                table.insert(jobs, {id = best[j], score = tonumber(best[j + 1]), limit = found[1],
                    requests = tonumber(found[2]) or 0, old = true})
            else
                preflight_key(job_key(best[j]))
            end
        end
        keys[key] = {jobs = jobs, read = true, idle = idle}
        most = most - math.min(#jobs, budget.each)
        local requested = token_requested_key(queue.name, key)
        for _, name in ipairs({unrequested, requested, TOKEN_GRANTS, OUTBOX, OUTBOX_DUE}) do
            preflight_key(name)
        end
    end
end

-- Moves an available job to the blocked ones.
local function block_job(queue, id, job, score)
    local key, keys = limit_of(job), blocked_jobs[queue.name]
    keys[key] = keys[key] or {jobs = {}}
    table.insert(keys[key].jobs, {id = id, score = score, limit = job[F.limit],
        requests = job[F.token_request_count] or 0})
    remove_member(queue.available, id)
    add_later(queue.blocked, score, id)
end
