-- Transition: (nothing) -> available, for one job. It is the fast path of enqueue.lua: creating the functions of
-- enqueue.lua alone takes longer than this whole script.
-- Pre:  nothing is stored under the id, not even a tombstone, and the time limit has not passed. The job declares no
--       max_per_second, and its rate limit key has the limits that it declares.
-- Post: the job exists, and counters, indexes and events agree with it. Nothing is stored, and the caller uses
--       enqueue.lua, when the queue is new, has a depth bound or is draining (no field `open`), or when its
--       counters are not numbers.
-- Memory: deny-oom.
-- KEYS: 1 events, 2 queue_counters, 3 queue_available, 4 job hash; with ARGV[7] 5 expiring, 6 references; with
--       ARGV[11] 7 tenant_queue, 8 tenant_counters, 9 tenant_turns.
-- ARGV: 1 events kept, 2 id, 3 queue, 4 envelope, 5 type, 6 maximum number of attempts; for a job that has any of
--       them 7 priority, 8 time (ms) before which it must run (0 none), 9 time of its expiry (ms) or '', 10 '1' if it
--       has a lock or an alias, '' otherwise, 11 tenant or '', then names and values of further fields.
-- Returns: one of
--   now              the job is stored. A number costs 10 000 instructions less than a table with it.
--   {reason}         nothing is stored: 'full_path': use enqueue.lua, 'bounded': use it, because the queue has a depth
--                    bound, 'too_late'
--   {'exists', 1, fields as returned by read_existing.lua}
--@include fields
--@include_where_used keys read_existing now priority_base set_deadline count_for_tenants tenant_queue
local events, counters_key, available, key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local events_kept, id, queue, envelope, kind, max_attempts = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local has_more, tenant = ARGV[7], ARGV[11] ~= '' and ARGV[11] -- has_more: there are arguments after the sixth

local function plus_one(a, b) return a + 1, b + 1 end -- for `pcall`: it fails if one is no number

-- 1. Check the id, the queue and the time. One command shows whether the job exists, which counts twice, and whether
-- the queue has jobs.
local existing = redis.call('EXISTS', key, key, available)
if existing > 1 then return {'exists', 1, read_existing(key)} end
local counters = redis.call('HMGET', counters_key, 'open', 'enqueued', 'seq')
local valid, enqueued, seq = pcall(plus_one, counters[2] or 0, counters[3] or 0)
-- Counters that are no integers, or too large for a score, take the full path: enqueue.lua replaces them.
if not (counters[1] and valid and enqueued % 1 == 0 and enqueued < BAND and enqueued > -BAND and
    seq % 1 == 0 and seq < BAND and seq > -BAND) then
    return {redis.call('HEXISTS', counters_key, 'bound') == 1 and 'bounded' or 'full_path'}
end
if has_more and ARGV[8] ~= '0' and now >= tonumber(ARGV[8]) then return {'too_late'} end

-- 2. Write the job, the counters, and the place in the queue.
if has_more then
    local priority, expires, more = ARGV[7], ARGV[9], {unpack(ARGV, 12)}
    if priority ~= '0' then more[#more + 1], more[#more + 2] = F.priority, priority end
    if expires ~= '' then more[#more + 1], more[#more + 2] = F.expires, expires end
    redis.call('HSET', key, F.state, 'available', F.queue, queue, F.created, now,
        F.envelope, envelope, F.type, kind, F.max_attempts, max_attempts, unpack(more))
else
    redis.call('HSET', key, F.state, 'available', F.queue, queue, F.created, now,
        F.envelope, envelope, F.type, kind, F.max_attempts, max_attempts)
end
redis.call('HSET', counters_key, 'enqueued', enqueued, 'seq', seq)
local score = band_of(ARGV[7] or 0) + seq
redis.call('ZADD', available, score, id)
-- The names of keys cost 2 % of an enqueue, so only this block has them.
if existing == 0 or has_more then
    if has_more and ARGV[9] ~= '' then set_deadline(KEYS[5], id, tonumber(ARGV[9])) end
    if has_more and ARGV[10] ~= '' then redis.call('ZADD', KEYS[6], now, id) end
    if tenant then
        local job = {[F.queue] = queue, [F.tenant] = tenant}
        index_for_tenant(id, job, score)
        count_for_tenant(job, 'available', 1)
        count_for_tenant(job, 'enqueued', 1)
        flush_tenant_counters()
    end
    if existing == 0 then redis.call('SPUBLISH', WAKE_CHANNEL, queue) end -- the queue was empty
end

-- 3. Write the event. One of 16 jobs of a queue trims the stream, because that costs 3 % of an enqueue. Fetches and
-- acks always trim it.
if events_kept ~= '0' then
    if tenant then
        redis.call('XADD', events, 'MAXLEN', '~', events_kept, '*',
            't', 'job.enqueued', 'j', id, 'y', kind, 'q', queue, 'tn', tenant)
    elseif seq % 16 > 0 then
        redis.call('XADD', events, '*', 't', 'job.enqueued', 'j', id, 'y', kind, 'q', queue)
    else
        redis.call('XADD', events, 'MAXLEN', '~', events_kept, '*',
            't', 'job.enqueued', 'j', id, 'y', kind, 'q', queue)
    end
end
return now
