-- Transition: (nothing) -> available | scheduled | pending, for jobs of one shard; in a transaction also
-- (nothing) -> prepared, or (nothing) -> cancelled for a superseded job.
-- Pre:  the time limit has not passed. No id is in use, except by a given tombstone or this transaction.
-- Post: all jobs exist, or none does. Counters, indexes and events agree with them. A portion of a transaction
--       is stored once. A prepared job is in alias_claims, but in no other index and in no counter. It names its
--       transaction until publish_job.lua. Effects: declared limits of rate limit keys, names of new queues.
-- Memory: deny-oom; as enqueue_part, for jobs of a committed transaction, allow-oom.
-- KEYS: 1 due, 2 expiring, 3 pending, 4 finished, 5 events, 6 alias_claims, 7 applied_transactions,
--       8 references; then per queue queue_counters and queue_available; then per job its hash; then per queue
--       and tenant tenant_queue, tenant_counters and tenant_turns; then sets of indexed values.
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
--   {'ok', now, effects, per job: state, due (ms) or '', expires (ms) or ''; of a queue above its warning threshold:
--    depth, depth bound in this shard}
--   nothing is stored:
--   {'too_late'}  the time limit has passed
--   {'already'}   the portion was stored before
--   {'exists', position of the job (1-based), fields as returned by read_existing.lua}
--   {'full', position of a queue (1-based), its depth, its depth bound in this shard, its strategy}
--   {'draining', position of a queue (1-based) that takes no new jobs}
--@include keys now preflight read_job read_existing change_counters append_event set_deadline
--@include append_effect make_available index_job parse_time check_depth_bound find_taken_ids index_value
local queues, jobs = tonumber(ARGV[2]), tonumber(ARGV[3])
if jobs > 1 then batch_events() end
local transaction, portion = ARGV[5], ARGV[10]
local first_job = 8 + 2 * queues -- index of the last key before the jobs

-- 1. Check what may refuse the jobs, before the first write.
if transaction ~= '' and redis.call('ZSCORE', KEYS[7], portion) then
    redis.call('ZADD', KEYS[7], now, portion) -- keeps the note for another ten minutes
    return {'already'}
end
local reserved = {} -- by position of a job: how its id is reserved for it, see find_taken_ids.lua
local taken = find_taken(jobs, first_job, transaction, ARGV[7], reserved)
if taken then return taken end
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if ARGV[4] ~= '0' and now >= tonumber(ARGV[4]) then return {'too_late'} end
local names = {unpack(ARGV, 12, 11 + queues)}
local full, pressure = refuse_full(names, 9, ARGV[11])
if full then return full end

-- 2. Write the note of the portion, the queues, and the jobs.
if transaction ~= '' then redis.call('ZADD', KEYS[7], now, portion) end

for i = 1, queues do
    local key = KEYS[8 + 2 * i - 1]
    local created, bound, draining, open = unpack(redis.call('HMGET', key, 'created', 'bound', 'draining', 'open'))
    if not created then
        redis.call('HSET', key, 'created', now)
        append_effect('queue', names[i])
    end
    if not (bound or draining or open) then redis.call('HSET', key, 'open', 1) end -- for enqueue_one.lua
end

local reply = {'ok', now, effects}
local released = {} -- ids that are not reserved any more
local declared = {} -- rate limit key with its limits -> true
local at = 11 + queues -- index of the argument before those of the next job
for i = 1, jobs do
    local key, id, outcome = KEYS[first_job + i], ARGV[at + 1], ARGV[at + 5]
    local due, due_shown = parse_time(ARGV[at + 6])
    local expires, expires_shown = parse_time(ARGV[at + 7])
    local fields = tonumber(ARGV[at + 8])
    local job = {[F.queue] = names[tonumber(ARGV[at + 2])], [F.priority] = ARGV[at + 3], [F.expires] = expires,
        [F.created] = now}
    local write = {}
    for j = 1, fields do write[j] = ARGV[at + 8 + j] end
    for j = 1, fields, 2 do job[write[j]] = write[j + 1] end
    count_job(job, 'enqueued', 1)
    local state = 'available'
    if outcome == 'superseded' then state = 'cancelled'
    elseif ARGV[at + 4] == 'pending' then state = 'pending'
    elseif due and due > now then state = 'scheduled' end
    local function set(name, value) write[#write + 1], write[#write + 2] = name, value end
    set(F.state, state)
    set(F.queue, job[F.queue])
    set(F.created, now)
    if ARGV[at + 3] ~= '0' then set(F.priority, ARGV[at + 3]) end
    if due then set(F.due, due) end
    if job[F.max_per_second] then declare_limit(id, job) end
    if job[F.limit] and not declared[job[F.limit]] then
        declared[job[F.limit]] = true
        append_effect('limit_declaration', job[F.limit] .. ' ' .. string.format('%.0f', now))
    end
    if due_shown then set(F.scheduled_shown, due_shown) end
    if expires then set(F.expires, expires) end
    if expires_shown then set(F.expires_shown, expires_shown) end
    if outcome == 'prepared' then
        set(F.transaction, transaction)
    elseif outcome == 'superseded' then
        set(F.finished, now)
    end
    -- The job must outlive the stalled producer that the tombstone kept out: see finish_job.lua.
    if reserved[i] == 'tombstone' then set(F.fixed_id, 1) end
    redis.call('HSET', key, unpack(write))
    record_references(id, job, tonumber(ARGV[8]), tonumber(ARGV[9]))
    if reserved[i] then
        redis.call('HDEL', key, F.alias, F.tombstone)
        if outcome ~= 'prepared' then
            redis.call('HDEL', key, F.transaction)
            released[#released + 1] = id
        end
    end
    if outcome == 'prepared' then
        redis.call('ZADD', ALIAS_CLAIMS, now, id)
    elseif outcome == 'superseded' then
        count_job(job, state, 1)
        redis.call('ZADD', FINISHED, now + ARGV[6], id)
        emit('job.cancelled', id, job)
    elseif state == 'available' and jobs > 1 then
        add_arrival(id, job)
        if expires then set_deadline(EXPIRING, id, expires) end
        emit('job.enqueued', id, job)
    else
        index_job(id, job, state, due)
    end
    reply[#reply + 1] = state
    reply[#reply + 1] = due or ''
    reply[#reply + 1] = expires or ''
    at = at + 8 + fields
end

-- 3. Write what was collected for all jobs.
index_values_of_jobs(at, first_job, reply)
flush_arrivals()
flush_counters()
flush_events()
-- Removals come last: an emptied set is deleted, and its key cannot be touched again (see preflight.lua).
call_in_slices('ZREM', ALIAS_CLAIMS, released)
if pressure then
    reply[#reply + 1] = pressure[1]
    reply[#reply + 1] = pressure[2]
end
return reply
