-- Rate limit keys whose state lives in the shard of the fetch: it takes their tokens itself.
local homes = {} -- key -> its state, or false when that is not here

-- Before the first write, for every job that may start. Returns the state of its key, if that is here.
local function look_at_home(job)
    local key = limit_of(job)
    if homes[key] ~= nil then return homes[key] end
    homes[key] = false
    if redis.call('EXISTS', rate_limit_key(key)) == 0 then return end
    local limit = load_limit(key)
    if not limit.fields.used_at then return end
    homes[key] = limit
    limit.free = redis.call('ZCARD', limit.la) == 0 and limit_room(limit, limit_meter(limit)) or 0
    limit.left = limit.free
    for _, name in ipairs({limit.l, limit.lh, limit.la, RATE_LIMITS, RATE_LIMIT_CHECKS}) do preflight_key(name) end
    return limit
end

-- Counts anew what is given away in a pass over the jobs.
local function begin_pass()
    for _, limit in pairs(homes) do
        if limit then limit.left = limit.free end
    end
end

-- Whether a job may start as far as its key is concerned; in the order of the jobs, since it counts.
local function may_start(job)
    if not job[F.limit] or job[F.token] then return true end
    local limit = homes[limit_of(job)]
    if not limit or limit.left <= 0 then return false end
    limit.left = limit.left - 1
    return true
end

-- A job starts that has no token yet: it is given one.
local function take_token(id, key, job, shard)
    local limit, number = homes[limit_of(job)], string.format('%.0f', (job[F.asks] or 0) + 1)
    redis.call('ZADD', limit.lh, 1, shard .. '/' .. id .. '/' .. number)
    limit.out, limit.coming = limit.out + 1, limit.coming + 1
    limit.begun = (limit.begun or 0) + 1
    save_job(key, job, F.asks, number, F.token, number)
end

local function close_homes()
    for _, limit in pairs(homes) do
        if limit and limit.begun then
            count_starts(limit, limit.begun)
            close_limit(limit)
        end
    end
end
