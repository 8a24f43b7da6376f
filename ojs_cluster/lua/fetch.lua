-- Transition: available -> active, for up to `count` jobs of some queues of one shard in which nothing
-- else is to be done.
-- Pre:  the worker is not quiet; a queue is not paused. Where something is due, a queue has limits, or a
--       job met is gone, malformed, has expired or needs a token of its rate limit's key, nothing is
--       done: that is fetch_any.lua's, whose pieces cost as much to load as all of this.
-- Post: each job returned has a new lease: worker, attempt + 1, deadline, lease id. Fewer jobs than
--       there are when they are large: the reply ends with the job that fills it.
-- Memory: allow-oom; per job a lease, 1 KiB at most.
-- KEYS: 1..6 the shard's due, act, run, exp, fin, ev; 7 quiet; then per queue c:, q:, h: and hq:.
-- ARGV: 1 events kept, 2 count, 3 worker id ('' anonymous), 4 lease id prefix,
--       5 visibility timeout ms asked for ('' the job's own), 6 default visibility timeout ms,
--       7 ms to keep discarded jobs, 8 this shard, 9 see fetch_any.lua, then the queue names in order. (5
--       and hq: of KEYS, and 7 and what follows of ARGV, are for fetch_any.lua, which is given the same.)
-- Returns: {now, {}, 0, jobs that the first queue had, per job: id, fields as before, attempt, deadline,
--           lease in ms} | {now, 'quiet'} | {now, 'limited'} for limits | {now, 'any'} for the rest
--@include keys now last job event deadline size lease
local wanted, worker = tonumber(ARGV[2]), ARGV[3]
if worker ~= '' then
    local until_ = redis.call('ZSCORE', KEYS[7], worker)
    if until_ and tonumber(until_) > now then return {now, 'quiet'} end
end
if #redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1) > 0 then return {now, 'any'} end

local found, bytes, active = {}, 0, {}
for at = 8, #KEYS, 4 do
    local paused, limits, mps = unpack(redis.call('HMGET', KEYS[at], 'paused', 'limits', 'mps'))
    if limits or mps or redis.call('ZCARD', KEYS[at + 2]) > 0 then return {now, 'limited'} end
    local most, before = wanted - #found, #found
    local closed = paused or most < 1
    for _, id in ipairs(closed and {} or redis.call('ZRANGE', KEYS[at + 1], 0, most - 1)) do
        if bytes >= MOST_BYTES then break end
        local flat = redis.call('HGETALL', job_key(id))
        local job = {flat = flat}
        for i = 1, #flat, 2 do job[flat[i]] = flat[i + 1] end
        if job[F.state] ~= 'available' or job[F.deal] or not is_sound(job)
            or job[F.expires] and tonumber(job[F.expires]) <= now then return {now, 'any'} end
        if job[F.limit] or job[F.mps] then return {now, 'limited'} end
        bytes = bytes + size_of(job)
        found[#found + 1] = {id = id, job = job, available = KEYS[at + 1]}
    end
    if #found > before then active[KEYS[at]] = #found - before end
    if #found >= wanted or bytes >= MOST_BYTES then break end
end

local reply = {now, {}, 0, redis.call('ZCARD', KEYS[9])}
if #found > 1 then gather() end
for given, item in ipairs(found) do
    take_out(item.available, item.id)
    local at = #reply
    reply[at + 1], reply[at + 2] = item.id, item.job.flat
    reply[at + 3], reply[at + 4], reply[at + 5] =
        lease(item.id, item.job, worker, ARGV[4] .. given, ARGV[5], ARGV[6])
end
for counts, more in pairs(active) do add_to(counts, 'active', more) end
write_events()
settle()
return reply
