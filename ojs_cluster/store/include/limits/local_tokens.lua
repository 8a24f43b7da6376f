-- Rate limit keys whose state is in the shard of the fetch. The fetch takes the tokens of these keys itself,
-- without a token request.
local local_limits = {} -- key -> its state, or false when the state is in another shard

-- Runs before the first write, for every job that may start. Returns the state of the job's rate limit key, or
-- nothing when that state is in another shard.
local function load_local_limit(job)
    local key = limit_of(job)
    if local_limits[key] ~= nil then return local_limits[key] end
    local_limits[key] = false
    if redis.call('EXISTS', rate_limit_key(key)) == 0 then return end
    local limit = load_rate_limit(key)
    -- A damaged state, or one that an override alone has made: the token request tells it the job's limits.
    if not (limit.fields.used_at and limit.fields.limits) then return end
    local_limits[key] = limit
    -- While other jobs wait for a token of this key, the fetch takes none: earlier requests come first.
    limit.free = redis.call('ZCARD', limit.requesters_key) == 0 and free_tokens(limit) or 0
    limit.untaken = limit.free
    for _, name in ipairs({limit.hash_key, limit.holders_key, limit.requesters_key, RATE_LIMITS,
        RATE_LIMIT_CHECKS}) do preflight_key(name) end
    return limit
end

-- Makes all free tokens available again, before the jobs are selected once more.
local function reset_local_tokens()
    for _, limit in pairs(local_limits) do
        if limit then limit.untaken = limit.free end
    end
end

-- Returns whether the limits of its rate limit key let a job start. If so, it takes a free token: call it once
-- per job, in the order of the jobs.
local function may_start(job)
    if not job[F.limit] or job[F.token] then return true end
    local limit = local_limits[limit_of(job)]
    if not limit or limit.untaken <= 0 then return false end
    limit.untaken = limit.untaken - 1
    return true
end

-- Gives a token to a job that starts now and has requested none. `key`: the key of the job's hash.
local function take_local_token(id, key, job, shard)
    local limit = local_limits[limit_of(job)]
    local number = string.format('%.0f', (job[F.token_request_count] or 0) + 1)
    limit.score = limit.score or counted_score(limit)
    redis.call('ZADD', limit.holders_key, limit.score, shard .. '/' .. id .. '/' .. number)
    limit.token_count, limit.uncounted = limit.token_count + 1, limit.uncounted + 1
    limit.started = (limit.started or 0) + 1
    save_job(key, job, F.token_request_count, number, F.token, number)
end

-- Counts the starts of jobs that took a token in this script. Other writes may follow, although close_rate_limit must
-- be the last one elsewhere: here no request was answered and no token was returned, so it removes no member of a set.
local function close_local_limits()
    for _, limit in pairs(local_limits) do
        if limit and limit.started then
            count_token_starts(limit, limit.started)
            close_rate_limit(limit)
        end
    end
end
