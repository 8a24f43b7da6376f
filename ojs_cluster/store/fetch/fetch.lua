-- Transition: available -> active, for up to `count` jobs of some queues of one shard; the fast path.
-- Pre:  the worker is not quiet, and the queues are not paused. If a job of the shard is due, if a queue has
--       limits, or if a job is missing, malformed, expired, needs a token or has a tenant, it changes nothing and
--       returns 'limited' or 'full_path': the caller then runs fetch_full.lua. Loading the includes of
--       fetch_full.lua takes longer than this whole script.
-- Post: each job returned has a new lease: worker, attempt + 1, deadline, lease id. The reply ends after the
--       job with which it reaches MAX_REPLY_BYTES, so fewer than `count` large jobs may be returned.
-- Memory: allow-oom; per job a lease, 1 KiB at most.
-- KEYS: 1 due, 2 active, 3 execution_deadlines, 4 expiring, 5 events, 6 quiet_workers, then per queue:
--       queue_counters, queue_available, queue_blocked.
-- ARGV: 1 events kept, 2 count, 3 worker id ('' anonymous), 4 lease id prefix,
--       5 requested visibility timeout ms ('' the job's own), 6 default visibility timeout ms,
--       7 '1' if the caller uses the number of available jobs, '' otherwise.
-- Returns: {now, 0 (no effects), 0 (no more work), number of available jobs that the first queue had before (0
--           unless ARGV[7] asks for it), per job: id, fields before the fetch, attempt, deadline, lease in ms}
--          {now, 'quiet'} the worker has a quiet flag
--          {now, 'limited'} a queue or a job has limits, a queue a fair share, or a job a tenant; the next fetches should run fetch_full.lua at once
--          {now, 'full_path'} for any other reason to run fetch_full.lua
-- Code of the common case defines no functions, because Redis would create them at each call. Includes are in
-- the branches that need them.
--@include keys now fields priority_base
local wanted, worker = ARGV[2] + 0, ARGV[3]
-- Usually no job is scheduled, no worker is quiet, and no job of the first queue is blocked: one command shows it.
local unusual = redis.call('EXISTS', KEYS[1], KEYS[6], KEYS[9])
if unusual > 0 then
    local first_due = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
    if first_due[1] then unusual = unusual - 1 end -- the number of the other two sets that exist
    if unusual > 0 and worker ~= '' then
        local until_ = redis.call('ZSCORE', KEYS[6], worker)
        if until_ and tonumber(until_) > now then return {now, 'quiet'} end
    end
    if first_due[1] and tonumber(first_due[2]) <= now then return {now, 'full_path'} end
end

-- `nil` in a new table reserves a place, here and below for one job: Lua allocates a table again when it grows.
local found, bytes, taken = {nil}, 0, {nil}
for q = 7, #KEYS, 3 do -- index of the queue's first key
    local queue = redis.call('HMGET', KEYS[q], 'paused', 'limits', 'max_per_second', 'active', 'fair')
    if queue[2] or queue[3] or queue[5] or (unusual > 0 or q > 7) and redis.call('ZCARD', KEYS[q + 2]) > 0 then
        return {now, 'limited'}
    end
    local ids, before, active = {}, #found, tonumber(queue[4] or 0)
    -- The full path handles a damaged counter: not a number, or far too large (any bound below 2^53 would do).
    if not (active and active % 1 == 0 and active < BAND and active > -BAND) then return {now, 'full_path'} end
    if not queue[1] and before < wanted then
        ids = redis.call('ZRANGE', KEYS[q + 1], 0, wanted - before - 1)
        -- More ids may not fit on Lua's stack when `unpack` passes them to ZREM.
        if #ids > 1000 then return {now, 'full_path'} end
    end
    for i = 1, #ids do
        if bytes >= MAX_REPLY_BYTES then break end
        local key, job = job_key(ids[i]), {
            id = nil, key = nil, field_list = nil, [F.state] = nil, [F.queue] = nil, [F.type] = nil,
            [F.envelope] = nil, [F.created] = nil, [F.max_attempts] = nil,
        }
        local field_list = redis.call('HGETALL', key)
        for j = 1, #field_list, 2 do job[field_list[j]] = field_list[j + 1] end
        job.id, job.key, job.field_list = ids[i], key, field_list
        -- A valid job with only the six fields of every job needs no call of validate_job.lua, which also
        -- explains the sum.
        local created, attempts = tonumber(job[F.created]), tonumber(job[F.max_attempts])
        local sum = #field_list == 12 and created and attempts and created + attempts
        if sum and sum > -LATEST_MS and sum < 5 * LATEST_MS and job[F.state] == 'available'
            and job[F.queue] and job[F.type] and job[F.envelope] then bytes = bytes + #job[F.envelope]
        else
--@include validate_job reply_size
            if job[F.state] ~= 'available' or job[F.transaction] or not has_valid_fields(job)
                or job[F.hold] or job[F.expires] and tonumber(job[F.expires]) <= now then
                return {now, 'full_path'}
            end
            if job[F.limit] or job[F.max_per_second] or job[F.tenant] then return {now, 'limited'} end
            bytes = bytes + size_of(job)
        end
        found[#found + 1] = job
    end
    local count = #found - before
    if count > 0 then taken[#taken + 1] = {q = q, ids = ids, count = count, active = active + count} end
    if #found >= wanted or bytes >= MAX_REPLY_BYTES then break end
end

-- Job n has five values in the reply, which begin at index 5 * n: the id, the fields, then at ATTEMPT the attempt.
local ATTEMPT = 2
local depth, expiring = ARGV[7] == '' and 0 or redis.call('ZCARD', KEYS[8]), nil
local reply = {now, 0, 0, depth, nil, nil, nil, nil, nil} -- places for the five values of one job
for n = 1, #found do
    local job, at = found[n], 5 * n
    local lease_ms = ARGV[5] ~= '' and ARGV[5] or job[F.visibility] or ARGV[6]
    local deadline, attempt = now + lease_ms, (job[F.attempt] or 0) + 1
    redis.call('HSET', job.key, F.state, 'active', F.attempt, attempt, F.worker, worker,
        F.lease, ARGV[4] .. (n == 1 and '1' or n), F.lease_ms, lease_ms, F.deadline, deadline, F.started, now)
    if job[F.timeout] or deadline - now < NEAR_MS then
--@include set_deadline
        set_deadline(KEYS[2], job.id, deadline)
        if job[F.timeout] then set_deadline(KEYS[3], job.id, now + job[F.timeout]) end
    else redis.call('ZADD', KEYS[2], deadline, job.id) end
    if job[F.expires] then expiring = expiring or {} end
    if job[F.expires] then expiring[#expiring + 1] = job.id end
    reply[at], reply[at + 1] = job.id, job.field_list
    reply[at + ATTEMPT], reply[at + 3], reply[at + 4] = attempt, deadline, lease_ms
end
if #found > 1 then
--@include append_event
    batch_events()
    for n, job in ipairs(found) do
        emit('job.started', job.id, job, 'a', reply[5 * n + ATTEMPT], 'w', worker)
    end
    flush_events()
elseif found[1] and ARGV[1] ~= '0' then
    redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[1], '*', 't', 'job.started', 'j', found[1].id,
        'y', found[1][F.type], 'q', found[1][F.queue], 'a', reply[5 + ATTEMPT], 'w', worker)
end
for i = 1, #taken do redis.call('HSET', KEYS[taken[i].q], 'active', taken[i].active) end
if expiring then redis.call('ZREM', KEYS[4], unpack(expiring)) end
-- The removals come last, with one command per set: Redis deletes a set that becomes empty, and a script must
-- not use a deleted key again (see preflight.lua).
for i = 1, #taken do
    redis.call('ZREM', KEYS[taken[i].q + 1], unpack(taken[i].ids, 1, taken[i].count))
end
return reply
