-- Transition: available -> discarded, for the oldest available jobs of a full queue that drops them to make room.
-- Pre:  the strategy of the queue is drop_oldest, the new jobs do not fit, and enough jobs are available here that
--       they would fit without these. Otherwise nothing is written.
-- Post: up to `limit` jobs are discarded, oldest first: the job that came first into the queue, whatever its
--       priority. Each has an error that says why. Effects: workflows, unique locks, and limits by key.
-- Memory: allow-oom; adds 1 KiB per job, and an error of it.
-- KEYS: 1 queue_counters, 2 queue_available, 3 expiring, 4 finished, 5 events.
-- ARGV: 1 events kept, 2 queue, 3 depth bound and number of new jobs (one word, see check_depth_bound.lua),
--       4 limit, 5 ms to keep discarded jobs, 6 number of errors that a job keeps.
-- Returns: {number of jobs dropped, number of jobs still to drop, effects}
--@include keys now preflight remove_many load_jobs change_counters append_event set_deadline append_effect
--@include finish_job remove_from_queue check_depth_bound priority_base
begin_events(ARGV[1])
batch_events()
local queue, limit, keep_ms, errors_kept = ARGV[2], tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local full = refuse_full({queue}, KEYS, 1, ARGV[3])
if not full or full[1] ~= 'full' or full[5] ~= 'drop_oldest' then return {0, 0, {}} end
local needed = full[3] + tonumber(string.match(ARGV[3], '%d+$')) - full[4]
local sets = {KEYS[2], queue_blocked_key(queue)}
if redis.call('ZCARD', sets[1]) + redis.call('ZCARD', sets[2]) < needed then return {0, needed, {}} end

-- The first job of each priority in each set. `number` is its position in the order of arrival.
local heads = {}
local function advance(head)
    local first, after = head.band * BAND, string.format('%.0f', (head.band + 1) * BAND)
    local found = redis.call('ZRANGEBYSCORE', head.set, string.format('%.0f', first), '(' .. after,
        'WITHSCORES', 'LIMIT', head.offset, 1)
    head.id, head.number, head.offset = found[1], found[2] and found[2] - first, head.offset + 1
end
for _, set in ipairs(sets) do
    local from, band = '0', nil
    repeat
        local first = redis.call('ZRANGEBYSCORE', set, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
        band = first[2] and math.floor(first[2] / BAND)
        if band then
            local head = {set = set, band = band, offset = 0}
            advance(head)
            heads[#heads + 1] = head
            from = string.format('%.0f', (band + 1) * BAND)
        end
    until not band or band >= 200
end

local dropped, jobs = {}, {}
for _ = 1, 2 * limit do -- a malformed job is left to the fetch that finds it
    if #dropped >= math.min(limit, needed) then break end
    local oldest
    for _, head in ipairs(heads) do
        if head.id and (not oldest or head.number < oldest.number) then oldest = head end
    end
    if not oldest then break end
    local id = oldest.id
    advance(oldest)
    local job = not jobs[id] and load_within_budget(job_key(id))
    if job and job[F.state] == 'available' then
        dropped[#dropped + 1], jobs[id] = id, job
        preflight_key(queue_counters_key(job[F.queue]))
        preflight_key(EXPIRING)
        preflight_key(FINISHED)
    end
end
run_preflight()

-- store/features/events/content.py and store/engine/jobs/record.py add the closing brace.
local ERROR = '{"code":"overflow","type":"overflow","message":"the queue was full, and this was its oldest job"'
for _, id in ipairs(dropped) do
    local job, key = jobs[id], job_key(id)
    remove_from_queue(id, job)
    if job[F.expires] then remove_member(EXPIRING, id) end
    local earlier = tonumber(job[F.errors] or 0)
    finish(id, key, job, 'discarded', keep_ms, F.errors, earlier + 1, F.error_slot .. (earlier % errors_kept),
        string.format('%s,%.0f,%s', job[F.attempt] or 0, now, ERROR))
end
for _, id in ipairs(dropped) do emit('backpressure.dropped', id, jobs[id]) end
for _, id in ipairs(dropped) do
    emit('job.discarded', id, jobs[id], 'f', 'available', 'a', jobs[id][F.attempt] or 0, 'e', ERROR)
end
flush_events()
flush_removals()
flush_counters()
return {#dropped, needed - #dropped, effects}
