-- Checks the depth bounds of queues before jobs are written in several steps. Changes nothing.
-- Memory: no-writes.
-- KEYS: 1 queue_counters of the first queue, 2 its queue_available, and so on for each queue.
-- ARGV: 1 bounds, one word per queue (see check_depth_bound.lua), 2.. queue names.
-- Returns: {} when all jobs fit
--          {'pressure', positions of the queues in ARGV that would be above their warning thresholds}: so they do
--          {'draining', position of a queue that takes no new jobs}
--          {'full', position of a full queue in ARGV, from 1, its depth here, its bound here, its strategy}: the queue
--          drops no jobs, or too few of its jobs are available
--          {'drop', such a reply for each full queue, all of which can drop enough jobs}
--@include keys check_depth_bound
local drops, pressed = {'drop'}, {'pressure'}
local i = 0
for bounds in string.gmatch(ARGV[1], '%S+') do
    i = i + 1
    local name, from = ARGV[1 + i], 2 * i - 1
    local full, pressure = refuse_full({name}, KEYS, from, bounds)
    if pressure then pressed[#pressed + 1] = i end
    if full then
        full[2] = i
        if full[5] ~= 'drop_oldest' then return full end
        local missing = full[3] + tonumber(string.match(bounds, '%d+$')) - full[4]
        if depth_of(name, KEYS[from + 1], {}) < missing then return full end
        drops[#drops + 1] = full
    end
end
return drops[2] and drops or pressed[2] and pressed or {}
