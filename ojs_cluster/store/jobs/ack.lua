-- Transition: active -> completed, of a job without effects; the fast path.
-- Pre:  the job is active, and the caller holds its lease or names no holder. For any other job, for a
--       malformed job, for a job with a workflow, a lock, a rate limit key, a tenant or its own retention, and for
--       the first ack of a minute in the queue, the script changes nothing and returns 'full_path': the caller then runs
--       ack_full.lua. Loading the includes of ack_full.lua takes longer than this whole script.
-- Post: the result is stored, the job has no lease and no backoff, and the time of its removal is set.
-- Memory: allow-oom; adds the result (OJS_RESULT_MAX_BYTES) and 1 KiB.
-- KEYS: 1 job, 2 active, 3 execution_deadlines, 4 finished, 5 events.
-- ARGV: 1 events kept, 2 worker id or '', 3 lease id or '', 4 result JSON or '',
--       5 ms to keep completed jobs.
-- Returns: {'ok', fields before the ack, 0 (no effects), now}: the caller knows the fields that the ack writes.
--           A field with an empty value is removed.
--          {'full_path'}
-- Code of the common case defines no functions, because Redis would create them at each call.
--@include keys now fields
-- `nil` in a new table reserves a place, here for each field of every active job: Lua allocates a table again when
-- it grows.
local field_list, job = redis.call('HGETALL', KEYS[1]), {
    [F.state] = nil, [F.queue] = nil, [F.type] = nil, [F.envelope] = nil, [F.created] = nil, [F.max_attempts] = nil,
    [F.attempt] = nil, [F.started] = nil, [F.worker] = nil, [F.lease] = nil, [F.deadline] = nil, [F.lease_ms] = nil,
}
local length = #field_list
for i = 1, length, 2 do job[field_list[i]] = field_list[i + 1] end
if job[F.state] ~= 'active' or ARGV[3] ~= '' and ARGV[3] ~= job[F.lease]
    or ARGV[2] ~= '' and ARGV[2] ~= (job[F.worker] or '') or job[F.transaction] or job[F.workflow]
    or job[F.unique] or job[F.limit] or job[F.tenant] or job[F.keep] then return {'full_path'} end
-- A job with only the twelve fields of every active job (24 names and values) has no other numbers to check.
local created, attempts = tonumber(job[F.created]), tonumber(job[F.max_attempts])
local attempt, began = tonumber(job[F.attempt]), tonumber(job[F.started])
local deadline, lease_ms = tonumber(job[F.deadline]), tonumber(job[F.lease_ms])
local sum = length == 24 and created and attempts and attempt and began and deadline and lease_ms
    and created + attempts + attempt + began + deadline + lease_ms
if not (sum and sum > -LATEST_MS and sum < 5 * LATEST_MS and job[F.queue] and job[F.type]
    and job[F.envelope] and job[F.lease] and job[F.worker]) then
--@include validate_job
    if not has_valid_fields(job) then return {'full_path'} end
end

-- While the slot moves, the counters may be on another node. Then Redis stops the script here, before its first
-- write, or `minute` is absent and the full path makes the preflight (see preflight.lua).
local id, counters = job_id_of(KEYS[1]), queue_counters_key(job[F.queue])
local minute, limits, active, completed, acked, run_ms, wait_ms = unpack(redis.call('HMGET', counters,
    'minute', 'limits', 'active', 'completed', 'acked', 'run_ms', 'wait_ms'))
if tonumber(minute) ~= (now - now % 60000) / 60000 then return {'full_path'} end
active = tonumber(active) or 0

local removal = now + ARGV[5]
if job[F.fixed_id] then
--@include finish_job
    removal = removal_time(job, ARGV[5])
end
redis.call('ZREM', KEYS[2], id)
if job[F.timeout] then redis.call('ZREM', KEYS[3], id) end
redis.call('ZADD', KEYS[4], removal, id)
if ARGV[4] == '' then redis.call('HSET', KEYS[1], F.state, 'completed', F.finished, now)
else redis.call('HSET', KEYS[1], F.state, 'completed', F.finished, now, F.result, ARGV[4]) end
if job[F.delay] then
    redis.call('HDEL', KEYS[1], F.delay)
    field_list[length + 1], field_list[length + 2] = F.delay, ''
end
local waited = began - (job[F.enqueued] or created)
redis.call('HSET', counters, 'active', active - 1, 'completed', (tonumber(completed) or 0) + 1,
    'acked', (tonumber(acked) or 0) + 1, 'run_ms', (tonumber(run_ms) or 0) + (now - began),
    'wait_ms', (tonumber(wait_ms) or 0) + (waited > 0 and waited or 0))
if limits then
--@include change_counters
    wake_on_free_slot(job[F.queue], limits, active, -1)
end
if ARGV[1] ~= '0' then
    redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[1], '*', 't', 'job.completed', 'j', id,
        'y', job[F.type], 'q', job[F.queue], 'a', job[F.attempt], 'd', now - began)
end
return {'ok', field_list, 0, now}
