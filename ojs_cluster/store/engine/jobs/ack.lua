-- Transition: active -> completed, of a job whose only effects are those of its lock and its token; the fast path.
-- Pre:  the job is active, and the caller holds its lease or names no holder. For any other job, for a malformed
--       job, for a job with a workflow or its own retention, for a suspect, and for the first ack of a minute in the
--       queue, the script changes nothing and returns 'full_path': the caller then runs ack_full.lua. Creating the
--       functions of ack_full.lua takes longer than this whole script.
-- Post: the result is stored, the job is not in active and has no token and no backoff. Its hash keeps holder and
--       lease, by which a repeated ack is recognized (complete_job.lua). The time of its removal is set, and the
--       effects for its lock and its rate limit key are in the outbox.
-- Memory: allow-oom; adds the result (OJS_RESULT_MAX_BYTES) and 1 KiB.
-- KEYS: 1 job, 2 active, 3 finished, 4 events.
-- ARGV: 1 events kept, 2 worker id or '', 3 lease id or '', 4 ms to keep completed jobs,
--       5 result JSON; absent for none.
-- Returns: one of
--   {'full_path'}  nothing has changed
--   a text         the job was plain: the two values of TIME, queue, type, created, maximum number of attempts,
--                  attempt, started and envelope, a line each. A table would cost more.
--   {'ok', fields before the ack, effects (0 for none), now}
--                  the job had other fields. The caller knows the fields that the ack writes; a field with an empty
--                  value is removed.
--@include keys now fields
--@include_where_used validate_job read_job removal_time change_counters set_deadline append_effect effects_of_jobs
--@include_where_used count_for_tenants
local key, active_jobs, finished_jobs, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local events_kept, worker, lease, keep_ms, result = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

-- Returns the sum of the job's numbers (see validate_job.lua), how long it ran and waited, the minute as a number, and
-- the counters of the queue after the ack. Runs under `pcall`: arithmetic fails if a value is absent or no number, and
-- converts each text once, while `tonumber` converts it twice. Redis creates functions at each call; one without
-- upvalues is cheap. Its arguments after `since` are in the order of the two HMGETs below.
local function sum_and_count(at, since, created, max_attempts, attempt, started, deadline, lease_ms, minute, active,
        completed, acked, run_ms, wait_ms)
    started = started + 0
    local ran, waited = at - started, started - since
    if waited < 0 then waited = 0 end
    return created + max_attempts + attempt + started + deadline + lease_ms, ran, waited, minute + 0, active - 1,
        completed + 1, acked + 1, run_ms + ran, wait_ms + waited
end

-- 1. Read the job. A plain job has only the twelve fields of every active job: six of enqueue_one.lua, and six that
-- fetch.lua adds. A thirteenth would make every ack slow. Reading their values costs less than reading the names as
-- well, and needs no table. `job` is nil for a plain job, and has all fields of any other.
local job, state, queue, kind, envelope, created, max_attempts, attempt, started, holder, held_lease, deadline, lease_ms
if redis.call('HLEN', key) == 12 then
    state, queue, kind, envelope, created, max_attempts, attempt, started, holder, held_lease, deadline, lease_ms =
        unpack(redis.call('HMGET', key, F.state, F.queue, F.type, F.envelope, F.created, F.max_attempts,
            F.attempt, F.started, F.worker, F.lease, F.deadline, F.lease_ms))
end
local since = created -- the time from which the job waited
if not (state and queue and kind and envelope and created and max_attempts and attempt and started and holder
    and held_lease and deadline and lease_ms) then
    local field_list = redis.call('HGETALL', key)
    job = {field_list = field_list}
    for i = 1, #field_list, 2 do job[field_list[i]] = field_list[i + 1] end
    if job[F.transaction] or job[F.workflow] or job[F.keep] or job[F.suspect] or not has_valid_fields(job) then
        return {'full_path'}
    end
    -- A key that KEYS does not name is read before the first write: see preflight.lua.
    if job[F.timeout] then redis.call('EXISTS', key, EXECUTION_DEADLINES) end
    if job[F.unique] or job[F.token] then redis.call('EXISTS', key, OUTBOX, OUTBOX_DUE) end
    if job[F.tenant] then redis.call('EXISTS', key, tenant_counters_key(job[F.tenant])) end
    state, queue, kind = job[F.state], job[F.queue], job[F.type]
    created, max_attempts, attempt, started = job[F.created], job[F.max_attempts], job[F.attempt], job[F.started]
    holder, held_lease = job[F.worker] or '', job[F.lease]
    deadline, lease_ms, since = job[F.deadline] or 0, job[F.lease_ms] or 0, job[F.enqueued] or created
end

-- 2. Check the holder, and compute the counters of the queue that the ack leaves.
if state ~= 'active' or (lease ~= '' and lease ~= held_lease) or (worker ~= '' and worker ~= holder) then
    return {'full_path'}
end
local id, counters = job_id_of(key), queue_counters_key(queue)
-- While the slot moves, the counters may be on another node. Then Redis stops the script here, before its first
-- write, or `minute` is absent and the full path makes the preflight (see preflight.lua).
local minute, limits, active, completed, acked, run_ms, wait_ms = unpack(redis.call('HMGET', counters, 'minute',
    'limits', 'active', 'completed', 'acked', 'run_ms', 'wait_ms'))
local valid, sum, ran, waited, counted_minute, new_active, new_completed, new_acked, new_run_ms, new_wait_ms =
    pcall(sum_and_count, now, since, created, max_attempts, attempt, started, deadline, lease_ms, minute, active,
        completed, acked, run_ms, wait_ms)
-- The sum is too large, or not a number, if a field is: see validate_job.lua.
if not (valid and counted_minute * 60000 == now - now % 60000 and sum > -LATEST_MS and sum < 5 * LATEST_MS) then
    return {'full_path'}
end

-- 3. Write. Nothing can fail from here on.
local removal, reply_effects = now + keep_ms, 0
if job then removal = removal_time(job, keep_ms) end
redis.call('ZREM', active_jobs, id)
redis.call('ZADD', finished_jobs, removal, id)
if result then redis.call('HSET', key, F.state, 'completed', F.finished, now, F.result, result)
else redis.call('HSET', key, F.state, 'completed', F.finished, now) end
redis.call('HSET', counters, 'active', new_active, 'completed', new_completed, 'acked', new_acked, 'run_ms',
    new_run_ms, 'wait_ms', new_wait_ms)
if limits then
    wake_on_free_slot(queue, limits, active + 0, -1) -- active before the ack, and its change
end
if job then
    if job[F.timeout] then redis.call('ZREM', EXECUTION_DEADLINES, id) end
    if job[F.delay] then drop_fields(key, job, F.delay) end
    if job[F.unique] or job[F.token] then
        if job[F.token] then return_token(id, job, 's') end
        if job[F.unique] then append_effect('unlock', unlock_payload(job[F.unique], id, job[F.replays])) end
        reply_effects = effects
    end
    if job[F.tenant] then
        count_for_tenant(job, 'active', -1)
        count_for_tenant(job, 'completed', 1)
        count_for_tenant(job, 'acked', 1)
        count_for_tenant(job, 'run_ms', ran)
        count_for_tenant(job, 'wait_ms', waited)
        flush_tenant_counters()
    end
end
if events_kept ~= '0' then
    if job and job[F.tenant] then
        redis.call('XADD', events, 'MAXLEN', '~', events_kept, '*', 't', 'job.completed', 'j', id,
            'y', kind, 'q', queue, 'a', attempt, 'd', ran, 'tn', job[F.tenant])
    else
        redis.call('XADD', events, 'MAXLEN', '~', events_kept, '*', 't', 'job.completed', 'j', id,
            'y', kind, 'q', queue, 'a', attempt, 'd', ran)
    end
end
if job then return {'ok', job.field_list, reply_effects, now} end
return clock[1] .. '\n' .. clock[2] .. '\n' .. queue .. '\n' .. kind .. '\n' .. created .. '\n' .. max_attempts
    .. '\n' .. attempt .. '\n' .. started .. '\n' .. envelope
