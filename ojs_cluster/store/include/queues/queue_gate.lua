-- The gate of a queue: whether it is paused, and how many of its jobs may start now. `limits` are the
-- operator's; `mps` is what its jobs declared last (max_per_second). Both hold. `mps` ends an hour after
-- the last job that declared it was enqueued or started (`mpsat`), but not before the job that declared it
-- last (`mpsjob`) has ended; and when an operator ends it (`mpsoff`), for all jobs that were there then.
local DECLARED_MS = 3600 * 1000

local function has_ended(id)
    local state = id and redis.call('HGET', job_key(id), F.state)
    return not state or state == 'completed' or state == 'cancelled' or state == 'discarded'
end

local function load_gate(key)
    local found = redis.call('HMGET', key, 'paused', 'active', 'limits', 'starts', 'next_start', 'max_per_second',
        'declared_starts', 'declared_at', 'declared_by', 'undeclared_at')
    local meter = {}
    local function number(i) return is_number(found[i]) and tonumber(found[i]) or 0 end
    -- A damaged declaration ends now: it must not stop every fetch of its queue.
    local over = found[6] and (number(6) < 1
        or now - number(8) >= DECLARED_MS and has_ended(found[9]))
    if over then found[6] = false end
    if found[3] then
        add_limits(meter, found[3], number(2), found[4], found[5])
    end
    if found[6] then table.insert(meter, window(tonumber(found[6]), 1000, found[7], 'declared_starts')) end
    return {shut = found[1], meter = meter, over = over, mps = found[6], ended = number(10)}
end

-- A job starts that declares a limit. Returns the fields to be written.
local function declared_again(gate)
    local job = gate.declares
    if not job then return {} end
    if gate.mps then return {'declared_at', now} end
    if tonumber(job[F.created]) <= gate.ended then return {} end
    return {'max_per_second', job[F.mps], 'declared_at', now, 'declared_by', job.id}
end

-- `n` jobs of the queue have started. Where that was the last that may, its waiters are called when
-- time has made room again (limits_due.lua); room that a job leaves by its end is told by leave_worker.
local function pass_gate(key, queue, gate, n)
    if gate.over then redis.call('HDEL', key, 'max_per_second', 'declared_starts', 'declared_at', 'declared_by') end
    if n == 0 or #gate.meter == 0 and not gate.declares then return end
    local fields = start(gate.meter, n)
    for _, value in ipairs(declared_again(gate)) do fields[#fields + 1] = value end
    if #fields > 0 then redis.call('HSET', key, unpack(fields)) end
    local at = opens(gate.meter)
    if at then set_deadline(EXHAUSTED_QUEUES, queue, at) end
end
