-- Transition: (nothing) -> available | scheduled | pending, for jobs of one shard; in a transaction also
-- (nothing) -> prepared, or (nothing) -> cancelled for a superseded job.
-- Pre:  the time limit has not passed. No id is in use, except by a given tombstone or this transaction.
-- Post: all jobs exist, or none does. Counters, indexes and events agree with them. A portion of a transaction
--       is stored once. A prepared job names its transaction until publish_job.lua. It is in alias_claims, in no
--       index and no counter of a state, but it counts as enqueued, its limits are declared, and references and the
--       index of values have it. Effects: declared limits of rate limit keys, names of new queues.
-- Memory: deny-oom; as enqueue_part, for jobs of a committed transaction, allow-oom.
-- KEYS: 1 due, 2 expiring, 3 pending, 4 finished, 5 events, 6 alias_claims, 7 applied_transactions,
--       8 references; then per queue queue_counters and queue_available; then per job its hash; then, declared
--       only, per queue and tenant tenant_queue, tenant_counters and tenant_turns; then sets of indexed values.
-- ARGV: 1 events kept, 2 number of queues, 3 number of jobs, 4 time (ms) before which it must run (0 none),
--       5 transaction id ('' none), 6 retention of cancelled jobs (ms), 7 tokens of tombstones that may be
--       replaced, each between blanks, 8 index of this shard, 9 number of shards, 10 note of the portion in
--       applied_transactions ('' none), 11 depth bounds (check_depth_bound.lua), then the queue names, then
--       per job: id, position of its queue (1-based), priority, 'pending' or '', outcome, due, expires, number
--       of field names and values, those names and values; then, if any, retention of the index (ms), and per
--       indexed value the positions of its set in KEYS and of its job.
--       outcome: '' | 'prepared' | 'superseded' by a later job of the request
--       due, expires: see parse_time.lua
-- Returns: {status, ...}
--   {'ok', now, effects, per job: state, due (ms) or '', expires (ms) or ''; then, if a queue is above its warning
--    threshold, of the last such queue: depth, depth bound in this shard}
--   nothing is stored:
--   {'too_late'}  the time limit has passed
--   {'already'}   the portion was stored before
--   {'exists', position of the job (1-based), fields as returned by read_existing.lua}
--   {'full', position of a queue (1-based), its depth, its depth bound in this shard, its strategy}
--   {'draining', position of a queue (1-based) that takes no new jobs}
--@include keys now preflight read_job read_existing change_counters append_event set_deadline
--@include append_effect make_available index_job parse_time check_depth_bound find_reservation index_value
--@include_where_used finish_job
local applied_transactions = KEYS[7]
local queue_count, job_count, run_before = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local transaction, keep_cancelled_ms, tombstones = ARGV[5], ARGV[6], ARGV[7]
local this_shard, shards, portion, bounds = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], ARGV[11]
local queues = {unpack(ARGV, 12, 11 + queue_count)}
local first_queue = 9 -- index of the first key of the queues
local before_jobs = 8 + 2 * queue_count -- index of the last key before the jobs
local first_job = 12 + queue_count -- index of the first argument of the jobs
begin_events(ARGV[1])
if job_count > 1 then batch_events() end

-- Appends two values to a list, such as the name and the value of a field.
local function put(list, first, second)
    local length = #list
    list[length + 1], list[length + 2] = first, second
end

-- Returns the new job that the arguments from index `at` on describe, and the index of the first argument behind it.
-- The job has the fields that this script reads by name, and all of them in the list `job.field_list`.
local function read_job_arguments(at)
    local id, queue_position, priority, initial_state, outcome, due_text, expires_text, length =
        unpack(ARGV, at, at + 7)
    local due, due_shown = parse_time(due_text)
    local expires, expires_shown = parse_time(expires_text)
    local state = 'available'
    if outcome == 'superseded' then state = 'cancelled'
    elseif initial_state == 'pending' then state = 'pending'
    elseif due and due > now then state = 'scheduled' end
    local behind, queue = at + 8 + length, queues[tonumber(queue_position)]
    local field_list = {F.state, state, F.queue, queue, F.created, now, unpack(ARGV, at + 8, behind - 1)}
    local job = {id = id, outcome = outcome, field_list = field_list, [F.state] = state, [F.queue] = queue,
        [F.created] = now, [F.priority] = priority, [F.due] = due, [F.expires] = expires}
    for i = 7, #field_list, 2 do job[field_list[i]] = field_list[i + 1] end -- those of the arguments
    if priority ~= '0' then put(field_list, F.priority, priority) end
    if due then put(field_list, F.due, due) end
    if due_shown then put(field_list, F.scheduled_shown, due_shown) end
    if expires then put(field_list, F.expires, expires) end
    if expires_shown then put(field_list, F.expires_shown, expires_shown) end
    if outcome == 'prepared' then put(field_list, F.transaction, transaction) end
    return job, behind
end

-- 1. Check what may refuse the jobs, before their first write.
if transaction ~= '' and redis.call('ZSCORE', applied_transactions, portion) then
    redis.call('ZADD', applied_transactions, now, portion) -- keeps the note for KEEP_NOTES_MS (purge_notes.py)
    return {'already'}
end
local reserved = {} -- position of a job -> how its id is reserved for it, see find_reservation.lua
for i = 1, job_count do
    local key = KEYS[before_jobs + i]
    local reservation = find_reservation(key, transaction, tombstones)
    if reservation == 'of another' then return {'exists', i, read_existing(key)} end
    if reservation then reserved[i] = reservation end
end
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if run_before ~= '0' and now >= tonumber(run_before) then return {'too_late'} end
local refusal, pressure = refuse_full(queues, KEYS, first_queue, bounds)
if refusal then return refusal end

-- 2. Write the note of the portion, and the new queues.
if transaction ~= '' then redis.call('ZADD', applied_transactions, now, portion) end
for i, queue in ipairs(queues) do
    local counters = KEYS[first_queue + 2 * (i - 1)]
    local created, bound, draining, open = unpack(redis.call('HMGET', counters, 'created', 'bound', 'draining', 'open'))
    if not created then
        redis.call('HSET', counters, 'created', now)
        append_effect('queue', queue)
    end
    if not (bound or draining or open) then redis.call('HSET', counters, 'open', 1) end -- for enqueue_one.lua
end

-- 3. Write the jobs.
local reply, dues = {'ok', now, effects}, {} -- dues: position of a job -> ms, nil for none
local released = {} -- ids that are not reserved any more
local declared = {} -- rate limit key with its limits -> true
local at = first_job
for i = 1, job_count do
    local key = KEYS[before_jobs + i]
    local job, behind = read_job_arguments(at)
    local id, state, outcome, due = job.id, job[F.state], job.outcome, job[F.due]
    at = behind
    if reserved[i] == 'tombstone' then
        -- The job must outlive the stalled producer that the tombstone kept out: see removal_time.lua.
        put(job.field_list, F.fixed_id, 1)
        job[F.fixed_id] = 1
    end
    redis.call('HSET', key, unpack(job.field_list))
    if reserved[i] then
        redis.call('HDEL', key, F.alias, F.tombstone)
        if outcome ~= 'prepared' then
            redis.call('HDEL', key, F.transaction)
            released[#released + 1] = id
        end
    end

    count_job(job, 'enqueued', 1)
    record_references(id, job, this_shard, shards)
    if job[F.max_per_second] then declare_limit(id, job) end
    if job[F.limit] and not declared[job[F.limit]] then
        declared[job[F.limit]] = true
        append_effect('limit_declaration', job[F.limit] .. ' ' .. string.format('%.0f', now))
    end
    if outcome == 'prepared' then
        redis.call('ZADD', ALIAS_CLAIMS, now, id)
    elseif outcome == 'superseded' then
        job[F.unique] = nil -- a later job of the request has the lock
        finish(id, key, job, 'cancelled', keep_cancelled_ms)
        emit('job.cancelled', id, job)
    elseif state == 'available' and job_count > 1 then
        -- As index_job, but the jobs of a queue are written together.
        add_arrival(id, job)
        if job[F.expires] then set_deadline(EXPIRING, id, job[F.expires]) end
        emit('job.enqueued', id, job)
    else
        index_job(id, job, state, due)
    end
    dues[i] = due
    reply[#reply + 1] = state
    put(reply, due or '', job[F.expires] or '')
end

-- 4. Write what was collected for all jobs. The arguments after those of the jobs name the indexed values.
local keep_index_ms = ARGV[at]
for i = at + 1, #ARGV, 2 do
    local set, position = KEYS[tonumber(ARGV[i])], tonumber(ARGV[i + 1])
    index_value(set, job_id_of(KEYS[before_jobs + position]), now, dues[position], keep_index_ms)
end
flush_arrivals()
flush_counters()
flush_events()
-- Removals come last: an emptied set is deleted, and its key cannot be touched again (see preflight.lua).
call_in_slices('ZREM', ALIAS_CLAIMS, released)
if pressure then put(reply, pressure[1], pressure[2]) end
return reply
