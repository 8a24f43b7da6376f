-- Transition: available -> active, for up to `count` jobs of some queues of one shard; the fast path.
-- Pre:  the worker is not quiet, and the queues are not paused. If a job of the shard is due, if a queue has limits
--       or a fair share, or if a job is missing, malformed, expired, held, or needs a token, it changes nothing: the
--       caller then runs fetch_full.lua. Creating the functions of that takes longer than this whole script.
-- Post: each job returned has a new lease: worker, attempt + 1, deadline, lease id. The reply ends after the
--       job with which it reaches MAX_REPLY_BYTES, so fewer than `count` large jobs may be returned.
-- Memory: allow-oom; per job a lease, 1 KiB at most.
-- KEYS: 1 due, 2 active, 3 events, 4 quiet_workers, then per queue: queue_counters, queue_available, queue_blocked.
-- ARGV: 1 events kept, 2 worker id ('' anonymous), 3 lease id of the first job, which ends in '1', 4 default
--       visibility timeout ms, then, unless one job is wanted, for as long as it says: 5 count, 6 requested visibility
--       timeout ms ('' the job's own), 7 '1' if the caller uses the number of available jobs, '' otherwise,
--       8 types of the jobs that are taken, as in find_parked.lua. With types, '' in 5 stands for one job.
-- Returns: one of
--   now                  there is no job
--   a text               one job, if ARGV[5] is absent or '': the two values of TIME, the id, and the values of a plain job
--                        (queue, type, created, maximum number of attempts, envelope), a line each. A plain job has
--                        only the fields of every job.
--   {now, effects (0 for none), 0 (no more work), number of available jobs that the first queue had before (0 unless
--    ARGV[7] asks for it), per job: id, fields before the fetch, or a text with the values of a plain job, attempt,
--    deadline, lease in ms}
--   {now, reason}        nothing has changed:
--     'quiet'            the worker has a quiet flag
--     'limited'          a queue has limits or a fair share: the next fetches should run fetch_full.lua at once
--     'limited_job'      a job has limits or another type, is blocked, or is parked and may start: they should until
--                        they get another job
--     'full_path'        any other reason to run fetch_full.lua
-- A plain job that is fetched alone is leased where it is found, because tables and functions cost as much as commands.
--@include keys now fields priority_base
--@include_where_used requests_pending find_parked validate_job reply_size set_deadline append_event append_effect count_for_tenants
local one = not ARGV[5] or ARGV[5] == ''
local wanted, worker, types = one and 1 or ARGV[5] + 0, ARGV[2], ARGV[8]
-- Usually no job is scheduled, no worker is quiet, and no job of the first queue is blocked: one command shows it.
local unusual = redis.call('EXISTS', KEYS[1], KEYS[4], KEYS[7])
if unusual > 0 then
    local first_due = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
    if first_due[1] then unusual = unusual - 1 end -- the number of the other two sets that exist
    if unusual > 0 and worker ~= '' then
        local until_ = redis.call('ZSCORE', KEYS[4], worker)
        if until_ and tonumber(until_) > now then return {now, 'quiet'} end
    end
    if first_due[1] and tonumber(first_due[2]) <= now then return {now, 'full_path'} end
end

local function add(a, b, c) return a + b, c + 1 end -- for `pcall`: it fails if one is no number
local found, bytes, taken, blocked = nil, 0, {}, false
for q = 5, #KEYS, 3 do -- index of the queue's first key
    local queue = redis.call('HMGET', KEYS[q], 'paused', 'limits', 'max_per_second', 'active', 'fair')
    if queue[2] or queue[3] or queue[5] then return {now, 'limited'} end
    local ids, before, active = nil, found and #found or 0, queue[4] or 0
    if not queue[1] and before < wanted then
        ids = redis.call('ZRANGE', KEYS[q + 1], 0, wanted - before - 1)
        -- More ids may not fit on Lua's stack when `unpack` passes them to ZREM.
        if #ids > 1000 then return {now, 'full_path'} end
    end
    if not queue[1] and (unusual > 0 or q > 5) and redis.call('ZCARD', KEYS[q + 2]) > 0 then
        local name = string.sub(KEYS[q], #PREFIX + 3) -- after the two characters of 'c:'
        if find_parked(name, types or '', '')[1] then return {now, 'limited_job'} end
        local waits = waits_for_tokens(name, KEYS[q + 2])
        blocked = blocked or waits
        if waits and not requests_pending(KEYS[q], KEYS[q + 1], KEYS[q + 2], ids, wanted - before) then
            return {now, 'limited_job'}
        end
    end
    for i = 1, ids and #ids or 0 do
        if bytes >= MAX_REPLY_BYTES then break end
        local id, key, job = ids[i], job_key(ids[i]), nil
        -- The values of a plain job cost less than a list and a table of its fields. validate_job.lua explains the sum.
        if redis.call('HLEN', key) == 6 then
            local state, name, kind, envelope, created, attempts = unpack(redis.call('HMGET', key, F.state, F.queue,
                F.type, F.envelope, F.created, F.max_attempts))
            local valid, sum, more_active = pcall(add, created, attempts, active)
            if valid and state == 'available' and name and kind and envelope
                and (not types or string.find(types, '\n' .. kind .. '\n', 1, true))
                and sum > -LATEST_MS and sum < 5 * LATEST_MS then
                local text = name .. '\n' .. kind .. '\n' .. created .. '\n' .. attempts .. '\n' .. envelope
                if one and ARGV[4] + 0 >= NEAR_MS and more_active % 1 == 0 and more_active < BAND
                    and more_active > -BAND then
                    local deadline = now + ARGV[4]
                    redis.call('HSET', key, F.state, 'active', F.attempt, 1, F.worker, worker, F.lease, ARGV[3],
                        F.lease_ms, ARGV[4], F.deadline, deadline, F.started, now)
                    redis.call('ZADD', KEYS[2], deadline, id)
                    if ARGV[1] ~= '0' then
                        redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[1], '*', 't', 'job.started', 'j', id,
                            'y', kind, 'q', name, 'a', 1, 'w', worker)
                    end
                    redis.call('HSET', KEYS[q], 'active', more_active)
                    redis.call('ZREM', KEYS[q + 1], id)
                    return clock[1] .. '\n' .. clock[2] .. '\n' .. id .. '\n' .. text
                end
                job = {[F.queue] = name, [F.type] = kind, key = key, id = id, field_list = text}
                bytes = bytes + #envelope
            end
        end
        if not job then
            local field_list = redis.call('HGETALL', key)
            job = {id = id, key = key, field_list = field_list}
            for j = 1, #field_list, 2 do job[field_list[j]] = field_list[j + 1] end
            if job[F.state] ~= 'available' or job[F.transaction] or not has_valid_fields(job)
                or job[F.hold] or job[F.expires] and tonumber(job[F.expires]) <= now then
                return {now, 'full_path'}
            end
            if job[F.limit] and not job[F.token] or job[F.max_per_second]
                or types and not string.find(types, '\n' .. job[F.type] .. '\n', 1, true) then
                return {now, 'limited_job'}
            end
            -- Keys that KEYS does not name are read before the first write: see preflight.lua.
            if job[F.timeout] or job[F.expires] then redis.call('EXISTS', KEYS[1], EXECUTION_DEADLINES, EXPIRING) end
            if job[F.token] then redis.call('EXISTS', KEYS[1], TOKEN_GRANTS, OUTBOX, OUTBOX_DUE) end
            if job[F.tenant] then
                redis.call('EXISTS', KEYS[1], tenant_queue_key(job[F.queue], job[F.tenant]),
                    tenant_counters_key(job[F.tenant]))
            end
            bytes = bytes + size_of(job)
        end
        found = found or {}
        found[#found + 1] = job
    end
    local count = found and #found - before or 0
    if count > 0 then
        -- The full path handles a damaged counter: not a number, or far too large (any bound below 2^53 would do).
        active = tonumber(active)
        if not (active and active % 1 == 0 and active < BAND and active > -BAND) then return {now, 'full_path'} end
        taken[#taken + 1] = {q = q, ids = ids, count = count, active = active + count}
    end
    if found and #found >= wanted or bytes >= MAX_REPLY_BYTES then break end
end
if blocked and not (found and #found >= wanted) and bytes < MAX_REPLY_BYTES then return {now, 'limited_job'} end
if not found and ARGV[7] ~= '1' then return now end

local reply = {now, 0, 0, ARGV[7] == '1' and redis.call('ZCARD', KEYS[6]) or 0}
if not found then return reply end
local expiring, granted, starts, tenants = {}, {}, {}, {}
for n, job in ipairs(found) do
    local requested, lease_id = ARGV[6] or '', string.sub(ARGV[3], 1, -2) .. n
    local lease_ms = requested ~= '' and requested or job[F.visibility] or ARGV[4]
    local deadline, attempt = now + lease_ms, (job[F.attempt] or 0) + 1
    -- A zero says that ack.lua cannot complete the job: see lease_ids.py.
    if job[F.workflow] or job[F.keep] then lease_id = string.sub(ARGV[3], 1, -2) .. '0' .. n end
    redis.call('HSET', job.key, F.state, 'active', F.attempt, attempt, F.worker, worker, F.lease, lease_id,
        F.lease_ms, lease_ms, F.deadline, deadline, F.started, now)
    if job[F.timeout] or deadline - now < NEAR_MS then
        set_deadline(KEYS[2], job.id, deadline)
        if job[F.timeout] then set_deadline(EXECUTION_DEADLINES, job.id, now + job[F.timeout]) end
    else redis.call('ZADD', KEYS[2], deadline, job.id) end
    if job[F.expires] then expiring[#expiring + 1] = job.id end
    if job[F.token] then -- its shard counts the start only where the token ends in 'w'
        granted[#granted + 1] = job.id
        local number, counted = string.match(job[F.token], '^(%d+)(w?)')
        if counted == 'w' then
            starts[#starts + 1] = string.match(job[F.limit], '^%S*') .. ' ' .. job.id .. '/' .. number
        end
    end
    if job[F.tenant] then tenants[#tenants + 1] = job end
    local at = 5 * n
    reply[at], reply[at + 1] = job.id, job.field_list
    reply[at + 2], reply[at + 3], reply[at + 4] = attempt, deadline, lease_ms + 0
end
if starts[1] then
    for _, start in ipairs(starts) do append_effect('token_start', start) end
    reply[2] = effects
end
if #found > 1 or tenants[1] then
    batch_events()
    for n, job in ipairs(found) do emit('job.started', job.id, job, 'a', reply[5 * n + 2], 'w', worker) end
    flush_events()
elseif ARGV[1] ~= '0' then
    local job = found[1]
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[1], '*', 't', 'job.started', 'j', job.id,
        'y', job[F.type], 'q', job[F.queue], 'a', reply[7], 'w', worker)
end
for i = 1, #taken do redis.call('HSET', KEYS[taken[i].q], 'active', taken[i].active) end
-- The removals come last, with one command per set: Redis deletes a set that becomes empty, and a script must
-- not use a deleted key again (see preflight.lua).
if tenants[1] then
    local indexes = {}
    for _, job in ipairs(tenants) do
        count_for_tenant(job, 'available', -1)
        count_for_tenant(job, 'active', 1)
        local key = tenant_queue_key(job[F.queue], job[F.tenant])
        indexes[key] = indexes[key] or {}
        table.insert(indexes[key], job.id)
    end
    flush_tenant_counters()
    for key, ids in pairs(indexes) do redis.call('ZREM', key, unpack(ids)) end
end
if expiring[1] then redis.call('ZREM', EXPIRING, unpack(expiring)) end
if granted[1] then redis.call('ZREM', TOKEN_GRANTS, unpack(granted)) end
for i = 1, #taken do
    redis.call('ZREM', KEYS[taken[i].q + 1], unpack(taken[i].ids, 1, taken[i].count))
end
return reply
