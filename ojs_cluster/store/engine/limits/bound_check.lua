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
local position = 0
for bounds in string.gmatch(ARGV[1], '%S+') do
    position = position + 1
    local name, first_key = ARGV[1 + position], 2 * position - 1
    local refusal, pressure = refuse_full({name}, KEYS, first_key, bounds)
    if pressure then pressed[#pressed + 1] = position end
    if refusal then
        refusal[2] = position -- refuse_full knows one queue only
        local _, _, depth, bound, strategy = unpack(refusal)
        if strategy ~= 'drop_oldest' then return refusal end
        local new_jobs = tonumber(string.match(bounds, '%d+$'))
        local available = depth_of(name, KEYS[first_key + 1], {})
        if available < depth + new_jobs - bound then return refusal end
        drops[#drops + 1] = refusal
    end
end
return drops[2] and drops or pressed[2] and pressed or {}
