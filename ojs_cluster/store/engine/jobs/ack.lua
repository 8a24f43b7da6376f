-- Transition: active -> completed, of a job whose only effects are those of its lock and its token; the fast path.
-- Pre:  the job is active, and the caller holds its lease or names no holder. For any other job, for a malformed
--       job, for a job with a workflow or its own retention, and for the first ack of a minute in the queue, the
--       script changes nothing and returns 'full_path': the caller then runs ack_full.lua. Creating the functions
--       of ack_full.lua takes longer than this whole script.
-- Post: the result is stored, the job has no lease, no token and no backoff, the time of its removal is set, and the
--       effects for its lock and its rate limit key are in the outbox.
-- Memory: allow-oom; adds the result (OJS_RESULT_MAX_BYTES) and 1 KiB.
-- KEYS: 1 job, 2 active, 3 finished, 4 events.
-- ARGV: 1 events kept, 2 worker id or '', 3 lease id or '', 4 ms to keep completed jobs,
--       5 result JSON; absent for none.
-- Returns: one of
--   a text         of a job with only the fields of every active job, which most jobs are, because a table costs more:
--                  the two values of TIME, queue, type, created, maximum number of attempts, attempt, started and
--                  envelope, a line each
--   {'ok', fields before the ack, effects (0 for none), now}
--                  the caller knows the fields that the ack writes; a field with an empty value is removed
--   {'full_path'}  nothing has changed
-- The only function of the common case is one without upvalues, because Redis creates functions at each call.
--@include keys now fields
--@include_where_used validate_job finish_job change_counters set_deadline append_effect count_for_tenants
local job, field_list, state, queue, kind, envelope, created, attempts, attempt, started, worker, lease, deadline,
    lease_ms, since
-- A job with twelve fields usually has those of every active job. Reading their values costs less than reading names
-- as well, and needs no table of the fields.
if redis.call('HLEN', KEYS[1]) == 12 then
    state, queue, kind, envelope, created, attempts, attempt, started, worker, lease, deadline, lease_ms =
        unpack(redis.call('HMGET', KEYS[1], F.state, F.queue, F.type, F.envelope, F.created, F.max_attempts,
            F.attempt, F.started, F.worker, F.lease, F.deadline, F.lease_ms))
    since = created
end
if not (state and queue and kind and envelope and created and attempts and attempt and started and worker and lease
    and deadline and lease_ms) then
    field_list, job = redis.call('HGETALL', KEYS[1]), {}
    for i = 1, #field_list, 2 do job[field_list[i]] = field_list[i + 1] end
    if job[F.transaction] or job[F.workflow] or job[F.keep] or not has_valid_fields(job) then return {'full_path'} end
    -- A key that KEYS does not name is read before the first write: see preflight.lua.
    if job[F.timeout] then redis.call('EXISTS', KEYS[1], EXECUTION_DEADLINES) end
    if job[F.unique] or job[F.token] then redis.call('EXISTS', KEYS[1], OUTBOX, OUTBOX_DUE) end
    if job[F.tenant] then redis.call('EXISTS', KEYS[1], tenant_counters_key(job[F.tenant])) end
    state, queue, kind, created, attempts = job[F.state], job[F.queue], job[F.type], job[F.created], 0
    attempt, started, worker, lease = job[F.attempt], job[F.started], job[F.worker] or '', job[F.lease]
    deadline, lease_ms, since = 0, 0, job[F.enqueued] or created
end
if state ~= 'active' or ARGV[3] ~= '' and ARGV[3] ~= lease or ARGV[2] ~= '' and ARGV[2] ~= worker then
    return {'full_path'}
end

-- While the slot moves, the counters may be on another node. Then Redis stops the script here, before its first
-- write, or `minute` is absent and the full path makes the preflight (see preflight.lua).
local id, counters = job_id_of(KEYS[1]), queue_counters_key(queue)
local old = redis.call('HMGET', counters, 'minute', 'limits', 'active', 'completed', 'acked', 'run_ms', 'wait_ms')
-- Arithmetic converts each text once, and fails if it is absent or no number; `tonumber` would convert it twice.
local valid, sum, minute, ran, waited, active, completed, acked, run_ms, wait_ms = pcall(
    function(at, from, most, tries, begin, ends, lasts, waits_from, last_minute, a, c, k, r, w)
        begin = begin + 0
        local runs, waits = at - begin, begin - waits_from
        if waits < 0 then waits = 0 end
        return from + most + tries + begin + ends + lasts, last_minute + 0, runs, waits, a + 0, c + 1, k + 1, r + runs,
            w + waits
    end,
    now, created, attempts, attempt, started, deadline, lease_ms, since, old[1], old[3], old[4], old[5], old[6], old[7])
-- The sum is too large, or not a number, if a field is: see validate_job.lua.
if not (valid and minute == (now - now % 60000) / 60000 and sum > -LATEST_MS and sum < 5 * LATEST_MS) then
    return {'full_path'}
end

local removal = now + ARGV[4]
if job and job[F.fixed_id] then
    removal = removal_time(job, ARGV[4])
end
redis.call('ZREM', KEYS[2], id)
if job and job[F.timeout] then redis.call('ZREM', EXECUTION_DEADLINES, id) end
redis.call('ZADD', KEYS[3], removal, id)
if ARGV[5] then redis.call('HSET', KEYS[1], F.state, 'completed', F.finished, now, F.result, ARGV[5])
else redis.call('HSET', KEYS[1], F.state, 'completed', F.finished, now) end
if job and job[F.delay] then
    redis.call('HDEL', KEYS[1], F.delay)
    field_list[#field_list + 1], field_list[#field_list + 2] = F.delay, ''
end
redis.call('HSET', counters, 'active', active - 1, 'completed', completed, 'acked', acked, 'run_ms', run_ms,
    'wait_ms', wait_ms)
if old[2] then
    wake_on_free_slot(queue, old[2], active, -1)
end
local delivered = 0
if job and (job[F.unique] or job[F.token]) then
    if job[F.token] then -- as return_token in finish_job.lua
        append_effect('token_return', string.match(job[F.limit], '^%S*') .. ' s ' .. id .. '/'
            .. string.match(job[F.token], '^%d+'))
        redis.call('HDEL', KEYS[1], F.token, F.open_token_request)
        field_list[#field_list + 1], field_list[#field_list + 2] = F.token, ''
        field_list[#field_list + 1], field_list[#field_list + 2] = F.open_token_request, ''
    end
    if job[F.unique] then -- as finish in finish_job.lua
        append_effect('unlock', job[F.unique] .. ' ' .. id .. ' ' .. (job[F.replays] or '0'))
    end
    delivered = effects
end
if job and job[F.tenant] then
    count_for_tenant(job, 'active', -1)
    count_for_tenant(job, 'completed', 1)
    count_for_tenant(job, 'acked', 1)
    count_for_tenant(job, 'run_ms', ran)
    count_for_tenant(job, 'wait_ms', waited)
    flush_tenant_counters()
    if ARGV[1] ~= '0' then
        redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[1], '*', 't', 'job.completed', 'j', id,
            'y', kind, 'q', queue, 'a', attempt, 'd', ran, 'tn', job[F.tenant])
    end
elseif ARGV[1] ~= '0' then
    redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[1], '*', 't', 'job.completed', 'j', id,
        'y', kind, 'q', queue, 'a', attempt, 'd', ran)
end
if job then return {'ok', field_list, delivered, now} end
return clock[1] .. '\n' .. clock[2] .. '\n' .. queue .. '\n' .. kind .. '\n' .. created .. '\n' .. attempts
    .. '\n' .. attempt .. '\n' .. started .. '\n' .. envelope
