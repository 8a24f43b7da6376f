-- The gate of a queue: whether it is paused, and how many of its jobs may start now. `limits` are the
-- operator's; `mps` is what its jobs declared last (max_per_second). Both hold.
local function load_gate(key)
    local found = redis.call('HMGET', key, 'paused', 'active', 'limits', 'starts', 'next', 'mps',
        'mpstarts')
    local meter = {}
    if found[3] then
        add_limits(meter, found[3], tonumber(found[2] or 0), found[4], found[5])
    end
    if found[6] then table.insert(meter, window(tonumber(found[6]), 1000, found[7], 'mpstarts')) end
    return {shut = found[1], meter = meter}
end

-- `n` jobs of the queue have started. Where that was the last that may, its waiters are called when
-- time has made room again (limits_due.lua); room that a job leaves by its end is told by leave_worker.
local function pass_gate(key, queue, gate, n)
    if #gate.meter == 0 or n == 0 then return end
    local fields = start(gate.meter, n)
    if #fields > 0 then redis.call('HSET', key, unpack(fields)) end
    local at = opens(gate.meter)
    if at then set_deadline(OPENING, queue, at) end
end
