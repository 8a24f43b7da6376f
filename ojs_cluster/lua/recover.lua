-- Transition: active -> available | discarded, for jobs of a worker that died.
-- Pre:  the lease was last given or extended before the worker's death: a worker that came back
--       keeps what it has taken since.
-- Post: of the `limit` active jobs after `cursor`, none is held by the dead worker.
-- KEYS: 1..7 the shard's act, run, exp, due, fin, dead, ev.
-- ARGV: 1 events kept, 2 worker id, 3 ms of its death, 4 cursor (a deadline in ms, '' to begin),
--       5 limit, 6 errors kept, 7 ms to keep discarded, 8 ms to keep dead letters,
--       9 dead letters kept per queue.
-- Returns: {jobs recovered, next cursor or '', effects}
--@include keys now look last job sound counts event deadline effect available finish backoff non_retryable fate graves fail
local limits = {ARGV[7], ARGV[8], tonumber(ARGV[9])}
local after = ARGV[4] == '' and '-inf' or '(' .. ARGV[4]
local page = redis.call('ZRANGEBYSCORE', ACTIVE, after, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[5])
if #page == 0 then return {0, '', effects} end
-- Whole milliseconds only: what shares the last score of the page is read with it, so the cursor
-- is a score and cannot skip or repeat a job.
local last = page[#page]
local found = redis.call('ZRANGEBYSCORE', ACTIVE, after, last)

-- Fields that were read prove that a job is here; an active job has always started.
local taken, ends = {}, {}
for _, id in ipairs(found) do
    local held = redis.call('HMGET', job_key(id), F.worker, F.started, F.extended)
    local since = math.max(tonumber(held[2]) or 0, tonumber(held[3]) or 0)
    if not held[2] then
        want(job_key(id))
    elseif held[1] == ARGV[2] and since <= tonumber(ARGV[3]) then
        local job = load_job(job_key(id))
        if is_sound(job) then -- else the reaper meets it when its lease ends
            taken[#taken + 1] = id
            ends[#ends + 1] = {job, fate_of_loss(job, 'worker_lost')}
            want(available_key(job[F.queue]))
        end
    end
end
look_at_ends(ends, limits[3])

local error = server_error('worker_lost', 'the worker stopped sending heartbeats')
gather()
for i, id in ipairs(taken) do lose_lease(id, job_key(id), ends[i][1], error, tonumber(ARGV[6])) end
for i, id in ipairs(taken) do
    go_on_without_lease(id, job_key(id), ends[i][1], error, ends[i][2], limits)
end
write_events()
settle()
settle_counts()
return {#taken, last, effects}
