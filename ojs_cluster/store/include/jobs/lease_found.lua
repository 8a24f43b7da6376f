-- Gives the worker the leases of the jobs that fetch.lua has found, appends their events, and makes the reply. It is
-- a part of fetch.lua, whose locals it uses.
-- Job n has five values in the reply, which begin at index 5 * n: the id, the fields, then at ATTEMPT the attempt.
local ATTEMPT = 2
local reply, expiring = {now, 0, 0, ARGV[7] == '1' and redis.call('ZCARD', KEYS[6]) or 0}, nil
for n, job in ipairs(found or {}) do
    local at, requested = 5 * n, ARGV[6] or ''
    local lease_ms = requested ~= '' and requested or job[F.visibility] or ARGV[4]
    local deadline, attempt = now + lease_ms, (job[F.attempt] or 0) + 1
    local lease_id = n == 1 and ARGV[3] or string.sub(ARGV[3], 1, -2) .. n
    -- See lease_ids.py, and the conditions of ack.lua: jobs with its other fields are not on the fast path.
    if job[F.workflow] or job[F.keep] then
        lease_id = string.sub(ARGV[3], 1, -2) .. '0' .. n
    end
    redis.call('HSET', job.key, F.state, 'active', F.attempt, attempt, F.worker, worker, F.lease, lease_id,
        F.lease_ms, lease_ms, F.deadline, deadline, F.started, now)
    if job[F.timeout] or deadline - now < NEAR_MS then
--@include set_deadline
        set_deadline(KEYS[2], job.id, deadline)
        if job[F.timeout] then set_deadline(EXECUTION_DEADLINES, job.id, now + job[F.timeout]) end
    else redis.call('ZADD', KEYS[2], deadline, job.id) end
    if job[F.expires] then expiring = expiring or {} end
    if job[F.expires] then expiring[#expiring + 1] = job.id end
    reply[at], reply[at + 1] = job.id, job.field_list
    reply[at + ATTEMPT], reply[at + 3], reply[at + 4] = attempt, deadline, lease_ms + 0
end
if found and #found > 1 then
--@include append_event
    batch_events()
    for n, job in ipairs(found) do
        emit('job.started', job.id, job, 'a', reply[5 * n + ATTEMPT], 'w', worker)
    end
    flush_events()
elseif found and ARGV[1] ~= '0' then
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[1], '*', 't', 'job.started', 'j', found[1].id,
        'y', found[1][F.type], 'q', found[1][F.queue], 'a', reply[5 + ATTEMPT], 'w', worker)
end
