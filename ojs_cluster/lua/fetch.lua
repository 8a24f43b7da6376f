-- Transition: available -> active, for up to `count` jobs of some queues of one shard that no limit
-- concerns.
-- Pre:  the worker is not quiet; a queue is not paused. Where a queue has limits, or a job met needs a
--       token of its rate limit's key, nothing is done: that is fetch_limited.lua's.
-- Post: each job returned has a new lease: worker, attempt + 1, deadline, lease id. What was due in the
--       shard has been promoted first; expired jobs met on the way are discarded. Fewer jobs than
--       there are when they are large: the reply ends with the job that fills it.
-- KEYS: 1..6 the shard's due, act, run, exp, fin, ev; 7 quiet; then per queue c:, q:, h: and hq:.
-- ARGV: 1 events kept, 2 count, 3 worker id ('' anonymous), 4 lease id prefix,
--       5 visibility timeout ms asked for ('' the job's own), 6 default visibility timeout ms,
--       7 ms to keep discarded jobs, 8 this shard, then the queue names in order.
-- Returns: {now, effects, 1 when there is more to look through, jobs that the first queue had,
--           per job: id, fields} | {now, 'quiet'} | {now, 'limited'}
--@include keys now look last job counts event deadline effect available finish sound promote lease unlimited scan
local wanted, worker = tonumber(ARGV[2]), ARGV[3]
if worker ~= '' then
    local until_ = redis.call('ZSCORE', KEYS[7], worker)
    if until_ and tonumber(until_) > now then return {now, 'quiet'} end
end
local due, jobs = look_at_due(16, true)
if wanted > 1 or #due > 0 then gather() end
for _, id in ipairs(due) do limited = limited or jobs[id] and jobs[id][F.limit] end
local queues = {}
for q = 9, #ARGV do
    local at = 8 + 4 * (q - 9)
    queues[q - 8] = {name = ARGV[q], available = KEYS[at + 1], gate = load_gate(KEYS[at], KEYS[at + 2])}
end
local found, more = scan(queues, jobs, wanted)
if limited then return {now, 'limited'} end
look()
if #due > 0 then
    promote_due(due, jobs, ARGV[7])
    found, more = scan(queues, jobs, wanted)
end

local reply, given = {now, effects, more and 1 or 0, redis.call('ZCARD', KEYS[9])}, 0
for _, item in ipairs(found) do
    local id, job = item.id, item.job
    if not job then
        take_out(item.queue.available, id)
    elseif not item.alive then
        leave_queue(id, job)
        take_out(EXPIRING, id)
        expire(id, job_key(id), job, ARGV[7])
    else
        given = given + 1
        take_out(item.queue.available, id)
        lease(id, job, worker, ARGV[4] .. given, ARGV[5], ARGV[6])
        reply[#reply + 1] = id
        reply[#reply + 1] = job.flat
    end
end
write_events()
settle()
settle_counts()
return reply
