-- Transition: available -> active, for up to `count` jobs of some queues of one shard; the fast path.
-- Pre:  the worker is not quiet, and the queues are not paused. If a job of the shard is due, if a queue has
--       limits, or if a job is missing, malformed, expired, needs a token or has a tenant, it changes nothing: the
--       caller then runs fetch_full.lua. Loading the includes of that takes longer than this whole script.
-- Post: each job returned has a new lease: worker, attempt + 1, deadline, lease id. The reply ends after the
--       job with which it reaches MAX_REPLY_BYTES, so fewer than `count` large jobs may be returned.
-- Memory: allow-oom; per job a lease, 1 KiB at most.
-- KEYS: 1 due, 2 active, 3 events, 4 quiet_workers, then per queue: queue_counters, queue_available, queue_blocked.
-- ARGV: 1 events kept, 2 worker id ('' anonymous), 3 lease id of the first job, which ends in '1', 4 default
--       visibility timeout ms, then, unless one job is wanted, for as long as it says: 5 count, 6 requested visibility
--       timeout ms ('' the job's own), 7 '1' if the caller uses the number of available jobs, '' otherwise.
-- Returns: now, if there is no job, or for one job, if ARGV[5] is absent, a text: the two values of TIME, id and the
--           values of a plain job, a line each. A plain job has only the fields of every job. Its values are: queue,
--           type, created, maximum number of attempts, envelope.
--          {now, 0 (no effects), 0 (no more work), number of available jobs that the first queue had before (0
--           unless ARGV[7] asks for it), per job: id, fields before the fetch, or a text with the values of a plain
--           job, attempt, deadline, lease in ms}
--          {now, 'quiet'} the worker has a quiet flag
--          {now, 'limited'} a queue has limits or a fair share: the next fetches should run fetch_full.lua at once
--          {now, 'limited_job'} a job has limits or a tenant, or is blocked: they should until they get another job
--          {now, 'full_path'} for any other reason to run fetch_full.lua
-- The common case makes few tables and one function: each costs as much as a command. Branches have the includes.
--@include keys now fields priority_base
local wanted, worker = ARGV[5] and ARGV[5] + 0 or 1, ARGV[2]
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
    if not queue[1] and (unusual > 0 or q > 5) and redis.call('ZCARD', KEYS[q + 2]) > 0 then
--@include requests_pending
        blocked = true
        if not requests_pending(KEYS[q]) then return {now, 'limited_job'} end
    end
    local ids, before, active = nil, found and #found or 0, queue[4] or 0
    if not queue[1] and before < wanted then
        ids = redis.call('ZRANGE', KEYS[q + 1], 0, wanted - before - 1)
        -- More ids may not fit on Lua's stack when `unpack` passes them to ZREM.
        if #ids > 1000 then return {now, 'full_path'} end
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
                and sum > -LATEST_MS and sum < 5 * LATEST_MS then
                local text = name .. '\n' .. kind .. '\n' .. created .. '\n' .. attempts .. '\n' .. envelope
                if not ARGV[5] and ARGV[4] + 0 >= NEAR_MS and more_active % 1 == 0 and more_active < BAND
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
--@include validate_job reply_size
            local field_list = redis.call('HGETALL', key)
            job = {id = id, key = key, field_list = field_list}
            for j = 1, #field_list, 2 do job[field_list[j]] = field_list[j + 1] end
            if job[F.state] ~= 'available' or job[F.transaction] or not has_valid_fields(job)
                or job[F.hold] or job[F.expires] and tonumber(job[F.expires]) <= now then
                return {now, 'full_path'}
            end
            if job[F.limit] or job[F.max_per_second] or job[F.tenant] then return {now, 'limited_job'} end
            -- Keys that KEYS does not name are read before the first write: see preflight.lua.
            if job[F.timeout] or job[F.expires] then redis.call('EXISTS', KEYS[1], EXECUTION_DEADLINES, EXPIRING) end
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

--@include lease_found
for i = 1, #taken do redis.call('HSET', KEYS[taken[i].q], 'active', taken[i].active) end
if expiring then redis.call('ZREM', EXPIRING, unpack(expiring)) end
-- The removals come last, with one command per set: Redis deletes a set that becomes empty, and a script must
-- not use a deleted key again (see preflight.lua).
for i = 1, #taken do
    redis.call('ZREM', KEYS[taken[i].q + 1], unpack(taken[i].ids, 1, taken[i].count))
end
return reply
