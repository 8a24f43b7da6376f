-- Transitions of one shard that time alone causes, up to `limit` of each kind:
--   execution timeout passed:   active -> retryable | discarded
--   visibility deadline passed: active -> available | discarded (no attempt left)
--   expires_at passed:          available | scheduled | retryable | pending -> discarded
-- KEYS: 1..8 the shard's act, run, exp, due, pend, fin, dead, ev.
-- ARGV: 1 events kept, 2 limit, 3 chance for the jitter, 4 errors kept, 5 ms to keep discarded,
--       6 ms to keep dead letters, 7 dead letters kept per queue.
-- Returns: {leases lost, timeouts, expired, now, ms of the next deadline or -1, effects}
--@include keys now job event deadline effect available finish minutes backoff fail
local limit, chance, kept = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local limits = {ARGV[5], ARGV[6], tonumber(ARGV[7])}

local function overdue(zset)
    return redis.call('ZRANGEBYSCORE', zset, '-inf', now, 'LIMIT', 0, limit)
end

local timeouts = overdue(RUNNING)
for i, id in ipairs(timeouts) do
    redis.call('ZREM', RUNNING, id)
    local key = job_key(id)
    local job = load_job(key)
    if job and job[F.state] == 'active' then
        leave_worker(id, job)
        drop_fields(key, job, F.delay, F.lease) -- the lease is lost: see lose_lease
        local error = string.format('{"code":"timeout","type":"timeout","message":'
            .. '"execution timeout of %s ms exceeded","retryable":true,"details":{'
            .. '"timeout_kind":"execution","limit_seconds":%.3f,"elapsed_seconds":%.3f}',
            job[F.timeout], job[F.timeout] / 1000, (now - job[F.started]) / 1000)
        fail(id, key, job, error, true, (chance * i) % 1, kept, limits)
    end
end

local lost = overdue(ACTIVE)
for _, id in ipairs(lost) do
    redis.call('ZREM', ACTIVE, id)
    local key = job_key(id)
    local job = load_job(key)
    if job and job[F.state] == 'active' then
        lose_lease(id, key, job, '{"code":"visibility_timeout","type":"visibility_timeout",'
            .. '"message":"the lease ended without ack, nack or heartbeat","retryable":true',
            kept, limits)
    end
end

local expired = overdue(EXPIRING)
for _, id in ipairs(expired) do
    redis.call('ZREM', EXPIRING, id)
    local key = job_key(id)
    local job = load_job(key)
    local state = job and job[F.state]
    if state == 'available' then
        redis.call('ZREM', available_key(job[F.queue]), id)
    elseif state == 'scheduled' or state == 'retryable' or state == 'pending' then
        count(job[F.queue], state, -1)
        redis.call('ZREM', state == 'pending' and PENDING or DUE, id)
    else
        job = nil
    end
    if job then expire(id, key, job, ARGV[5]) end
end

local next_ = -1
for _, zset in ipairs({ACTIVE, RUNNING, EXPIRING}) do
    local score = redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2]
    if score and (next_ < 0 or tonumber(score) < next_) then next_ = tonumber(score) end
end
return {#lost, #timeouts, #expired, now, next_, effects}
