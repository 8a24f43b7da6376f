-- Transition: active -> retryable | discarded | available (requeue, release) | cancelled (spared).
-- Pre:  as ack. A holder's lease id repeating the nack it already made changes nothing.
-- Post: failed: the error is recorded, then backoff, discard or dead letter.
--       requeue: available at the end of its priority, attempt kept, no failure recorded.
--       release (a fetch whose client vanished): as requeue, but the attempt never happened and
--       the job goes back to the front.
-- KEYS: 1 job, 2..8 the shard's due, act, run, exp, fin, dead, ev.
-- ARGV: 1 events kept, 2 worker id or '', 3 lease id or '', 4 'fail' | 'requeue' | 'release',
--       5 error JSON without its closing brace, 6 '1' when the error allows a retry, '0' when not,
--       'discard' | 'dead_letter' when the handler has decided the job's end,
--       7 chance for the jitter, 8 errors kept, 9 ms to keep discarded, 10 ms to keep dead
--       letters, 11 dead letters kept per queue, 12 ms until which nothing of the job's rate
--       limit key is to start, or '', 13.. names the error goes by (type, code, class).
-- Returns: as ack.

--@include keys now look once job event deadline effect available finish minutes backoff graves fail holder
local key = KEYS[1]
local job, reply = load_job(key)
if not job then return reply end
local id = string.sub(key, #P + 3)
if job[F.state] ~= 'active' then
    local repeated = ARGV[3] ~= '' and ARGV[3] == job[F.lease] and job[F.state] ~= 'completed'
        and (job[F.state] ~= 'cancelled' or job[F.spared])
    if repeated then return {'ok', job.flat, effects} end
    return {'conflict', job[F.state]}
end
if not is_holder(job, ARGV[2], ARGV[3]) then return {'not_holder'} end

-- A pattern matches a name exactly, or by its beginning when it ends in '.*' and the name goes on.
-- Twin of core/retry.py.
local function never_retried(patterns)
    for pattern in string.gmatch(patterns or '', '[^\n]+') do
        local stem = string.match(pattern, '^(.*)%.%*$')
        for i = 13, #ARGV do
            local name = ARGV[i]
            if name == pattern or
                (stem and #name > #stem and string.sub(name, 1, #stem) == stem) then
                return true
            end
        end
    end
    return false
end

local queue, limits = job[F.queue], {ARGV[9], ARGV[10], tonumber(ARGV[11])}
local decided = (ARGV[6] == 'discard' or ARGV[6] == 'dead_letter') and ARGV[6]
local retryable = ARGV[6] == '1' and not never_retried(job[F.non_retryable])
want(queue_key(queue))
if ARGV[4] == 'fail' then
    want(minutes_key(queue))
    look()
    if is_last(job, retryable) and (decided or job[F.on_exhaustion]) == 'dead_letter' then
        look_at_graves(queue, 1, limits[3])
    end
    leave_worker(id, job, ARGV[12])
    if job[F.delay] then drop_fields(key, job, F.delay) end
    if decided then save_job(key, job, F.on_exhaustion, decided) end
    fail(id, key, job, ARGV[5], retryable, tonumber(ARGV[7]), tonumber(ARGV[8]), limits)
    return {'ok', job.flat, effects}
end
want(available_key(queue))
look()
leave_worker(id, job)
if job[F.spared] then
    end_spared(id, key, job)
    return {'ok', job.flat, effects}
end
if ARGV[4] == 'release' then
    save_job(key, job, F.state, 'available', F.attempt, job[F.attempt] - 1)
    if job[F.attempt] == '0' then drop_fields(key, job, F.started) end
else
    save_job(key, job, F.state, 'available', F.enqueued, now)
end
make_available(id, job, ARGV[4] == 'release')
if ARGV[4] == 'requeue' then emit('job.enqueued', id, job) end
return {'ok', job.flat, effects}
