-- Transition: available -> active, for up to `count` jobs of some queues of one shard; the fast path.
-- Pre:  the worker is not quiet. Jobs are taken only from queues that are not paused. If a job of the shard is due, if
--       a queue has limits or a fair share, or if a job is missing, malformed, expired, held, or needs a token, it
--       changes nothing: the caller then runs fetch_full.lua. Creating the functions of that takes longer than this
--       whole script.
-- Post: each job returned has a new lease: worker, attempt + 1, deadline, lease id. The reply ends after the
--       job with which it reaches MAX_REPLY_BYTES, so fewer than `count` large jobs may be returned.
-- Memory: allow-oom; per job a lease, 1 KiB at most.
-- KEYS: 1 due, 2 active, 3 events, 4 quiet_workers, then per queue: queue_counters, queue_available, queue_blocked.
-- ARGV: 1 events kept, 2 worker id ('' anonymous), 3 lease id of the first job, which ends in '1', 4 default
--       visibility timeout ms, 5 count, 6 requested visibility timeout ms ('' the job's own), 7 '1' if the caller uses
--       the number of available jobs, '' otherwise, 8 types of the jobs that are taken: a line for each, between line
--       breaks. 8 is absent for any type, never ''. 5 to 7 are absent, or all '' before an 8, when one job is wanted
--       with its own timeout and without that number.
-- Returns: a text or a list.
--   A text has lines, of which the first is the outcome. Nothing has changed, unless it is 'plain_job':
--     'none'             there is no job that can start
--     'quiet'            the worker has a quiet flag
--     'isolated'         the worker runs a suspect alone
--     'limited'          a queue has limits or a fair share: the next fetches should run fetch_full.lua at once
--     'limited_job'      a job has limits or another type, is blocked, or is parked and may start: they should until
--                        they get another job
--     'full_path'        any other reason to run fetch_full.lua
--     'plain_job'        the only job, if one was wanted and it is plain. The next lines are the two values of TIME,
--                        its id, and the values of its fields: queue, type, created, maximum number of attempts,
--                        envelope.
--   A list has what any other jobs need, or the depth without a job. fetch_full.lua returns the same list:
--     1 now, 2 effects (0 for none), 3 what another call may find (0: nothing), 4 number of available jobs that the
--     first queue had before (0 unless ARGV[7] asks for it), then per job five: id, fields before the fetch, attempt,
--     deadline, lease in ms. The fields of a plain job are a text with the values that follow its id above.
-- A plain job has only the fields of every job. One that is wanted alone needs no table and no function, because these
-- cost as much as commands.
-- Constants of the includes: LATEST_MS is in validate_job.lua, MAX_REPLY_BYTES in reply_size.lua, NEAR_MS in
-- set_deadline.lua.
--@include keys now fields
--@include_where_used isolated_workers blocked_jobs load_for_lease validate_job reply_size remove_many read_job
--@include_where_used set_deadline append_effect effects_of_jobs append_event count_for_tenants
local due, active_jobs, events, quiet_workers, first_blocked = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[7]
local events_kept, worker, first_lease_id, default_ms, types = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[8]
local is_single = not ARGV[5] or ARGV[5] == ''
local wanted = is_single and 1 or ARGV[5] + 0

-- Returns the sum of two numbers of a job, and a counter plus 1. Runs under `pcall`: it fails if one is no number.
local function sum_and_next(created, attempts, counter)
    return created + attempts, counter + 1
end

-- 1. Check the worker and the due jobs. Usually no job is scheduled, no worker is quiet, and no job of the first queue
-- is blocked: one command shows that none of the three keys exists.
local first_blocked_count = 0 -- blocked jobs of the first queue
local existing = redis.call('EXISTS', due, quiet_workers, first_blocked)
if existing > 0 then
    local first_due = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
    local others = existing - (first_due[1] and 1 or 0)
    if others > 0 then first_blocked_count = redis.call('ZCARD', first_blocked) end
    local is_some_worker_quiet = others > (first_blocked_count > 0 and 1 or 0)
    if is_some_worker_quiet and worker ~= '' then
        local quiet_until, isolated_until = unpack(redis.call('ZMSCORE', quiet_workers, worker, isolation_of(worker)))
        if quiet_until and tonumber(quiet_until) > now then return 'quiet' end
        if isolated_until and tonumber(isolated_until) > now then return 'isolated' end
    end
    if first_due[1] and tonumber(first_due[2]) <= now then return 'full_path' end
end

-- 2. Read the jobs to lease, queue by queue, before the first write. A plain job that is wanted alone is leased here.
local jobs, served -- lists: the jobs to lease, and what part 4 writes for each of their queues; nil if empty
local bytes = 0 -- size of these jobs
local has_waiting = false -- whether blocked jobs wait for tokens
for at = 5, #KEYS, 3 do -- index of the queue's first key
    local counters, available, blocked = KEYS[at], KEYS[at + 1], KEYS[at + 2]
    local paused, limits, max_per_second, active, fair = unpack(redis.call('HMGET', counters, 'paused', 'limits',
        'max_per_second', 'active', 'fair'))
    if limits or max_per_second or fair then return 'limited' end
    local before = jobs and #jobs or 0
    local missing = wanted - before
    -- A fetch that wants no job only reads the depth.
    local ids = not paused and missing > 0 and redis.call('ZRANGE', available, 0, missing - 1) or {}
    -- More ids may not fit on Lua's stack when `unpack` passes them to ZREM.
    if #ids > 1000 then return 'full_path' end
    if not paused and (at == 5 and first_blocked_count or redis.call('ZCARD', blocked)) > 0 then
        local needs_full_path, waits = check_blocked_jobs(queue_of(counters), types or '', ids, missing)
        if needs_full_path then return 'limited_job' end
        has_waiting = has_waiting or waits
    end
    for i = 1, #ids do
        if bytes >= MAX_REPLY_BYTES then break end
        local id, key, job = ids[i], job_key(ids[i]), nil
        -- The values of a plain job cost less than a list and a table of its fields. validate_job.lua explains the sum.
        if redis.call('HLEN', key) == 6 then
            local state, queue, kind, envelope, created, attempts = unpack(redis.call('HMGET', key, F.state, F.queue,
                F.type, F.envelope, F.created, F.max_attempts))
            local are_numbers, sum, next_active = pcall(sum_and_next, created, attempts, active or 0)
            if are_numbers and state == 'available' and queue and kind and envelope
                and (not types or string.find(types, '\n' .. kind .. '\n', 1, true))
                and sum > -LATEST_MS and sum < 5 * LATEST_MS then
                local values = queue .. '\n' .. kind .. '\n' .. created .. '\n' .. attempts .. '\n' .. envelope
                -- A near deadline must be announced (set_deadline.lua), and the full path repairs a damaged counter:
                -- parts 3 and 4 handle both.
                if is_single and default_ms + 0 >= NEAR_MS and next_active % 1 == 0 and next_active < LATEST_MS
                    and next_active > -LATEST_MS then
                    local deadline = now + default_ms
                    redis.call('HSET', key, F.state, 'active', F.attempt, 1, F.worker, worker, F.lease,
                        first_lease_id, F.lease_ms, default_ms, F.deadline, deadline, F.started, now)
                    redis.call('ZADD', active_jobs, deadline, id)
                    if events_kept ~= '0' then
                        redis.call('XADD', events, 'MAXLEN', '~', events_kept, '*', 't', 'job.started', 'j', id,
                            'y', kind, 'q', queue, 'a', 1, 'w', worker)
                    end
                    redis.call('HSET', counters, 'active', next_active)
                    redis.call('ZREM', available, id)
                    return 'plain_job\n' .. clock[1] .. '\n' .. clock[2] .. '\n' .. id .. '\n' .. values
                end
                job = {[F.queue] = queue, [F.type] = kind, key = key, id = id, field_list = values}
                bytes = bytes + #envelope
            end
        end
        if not job then
            local reason
            job, reason = load_for_lease(id, key, types)
            if not job then return reason end
            bytes = bytes + size_of(job)
        end
        jobs = jobs or {}
        jobs[#jobs + 1] = job
    end
    local count = jobs and #jobs - before or 0
    if count > 0 then
        -- The full path handles a damaged counter: not a number, or too large.
        active = tonumber(active or 0)
        if not (active and active % 1 == 0 and active < LATEST_MS and active > -LATEST_MS) then return 'full_path' end
        served = served or {}
        served[#served + 1] = {counters = counters, available = available, ids = ids, count = count,
            active = active + count}
    end
    if jobs and #jobs >= wanted or bytes >= MAX_REPLY_BYTES then break end
end

-- 3. Lease the jobs. If there are too few, and others wait for tokens, the full path leases these too and requests
-- tokens.
if has_waiting and not (jobs and #jobs >= wanted) and bytes < MAX_REPLY_BYTES then return 'limited_job' end
local with_depth = ARGV[7] == '1'
if not (jobs or with_depth) then return 'none' end
local reply = {now, 0, 0, with_depth and redis.call('ZCARD', KEYS[6]) or 0} -- of the first queue
if not jobs then return reply end
local PER_JOB = 5 -- values of a job in the reply. The head has one less, so the id of job n is at PER_JOB * n.
local ATTEMPT = 2 -- places of values after the id
local DEADLINE = 3
local LEASE_MS = 4
local requested_ms, lease_prefix = ARGV[6] or '', string.sub(first_lease_id, 1, -2)
local jobs_of_tenants = {}
for n, job in ipairs(jobs) do
    local lease_ms = requested_ms ~= '' and requested_ms or job[F.visibility] or default_ms
    local deadline, attempt = now + lease_ms, (job[F.attempt] or 0) + 1
    -- A zero says that ack.lua cannot complete the job: see lease_ids.py. This is needs_full_ack of lease_job.lua
    -- without suspects, which load_for_lease leaves to the full path.
    local lease_id = lease_prefix .. ((job[F.workflow] or job[F.keep]) and '0' or '') .. n
    redis.call('HSET', job.key, F.state, 'active', F.attempt, attempt, F.worker, worker, F.lease, lease_id,
        F.lease_ms, lease_ms, F.deadline, deadline, F.started, now)
    set_deadline(active_jobs, job.id, deadline)
    if job[F.timeout] then set_deadline(EXECUTION_DEADLINES, job.id, now + job[F.timeout]) end
    if job[F.expires] then remove_member(EXPIRING, job.id) end
    if job[F.token] then use_token(job.id, job) end
    if job[F.tenant] then jobs_of_tenants[#jobs_of_tenants + 1] = job end
    local place = PER_JOB * n
    reply[place], reply[place + 1] = job.id, job.field_list
    reply[place + ATTEMPT], reply[place + DEADLINE], reply[place + LEASE_MS] = attempt, deadline, lease_ms + 0
end
if effects[1] then reply[2] = effects end

-- 4. Write the events, the counters, and at last the removals: Redis deletes a set that becomes empty, and a script
-- must not use a deleted key again (see preflight.lua).
if #jobs > 1 or jobs_of_tenants[1] then
    begin_events(events_kept)
    batch_events()
    for n, job in ipairs(jobs) do emit('job.started', job.id, job, 'a', reply[PER_JOB * n + ATTEMPT], 'w', worker) end
    flush_events()
elseif events_kept ~= '0' then
    local job = jobs[1]
    redis.call('XADD', events, 'MAXLEN', '~', events_kept, '*', 't', 'job.started', 'j', job.id,
        'y', job[F.type], 'q', job[F.queue], 'a', reply[PER_JOB + ATTEMPT], 'w', worker)
end
for _, queue in ipairs(served) do redis.call('HSET', queue.counters, 'active', queue.active) end
if jobs_of_tenants[1] then
    for _, job in ipairs(jobs_of_tenants) do
        count_for_tenant(job, 'available', -1)
        count_for_tenant(job, 'active', 1)
        remove_member(tenant_queue_key(job[F.queue], job[F.tenant]), job.id)
    end
    flush_tenant_counters()
end
flush_removals()
for _, queue in ipairs(served) do redis.call('ZREM', queue.available, unpack(queue.ids, 1, queue.count)) end
return reply
