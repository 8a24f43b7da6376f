-- Transition: (nothing) -> any state except active, for one job of an archive.
-- Pre:  no job and no alias is stored under the id in this shard. The claim of the job's alias has not expired.
-- Post: the job has the archived fields, is in the indexes of its state, and has its archived position.
--       The position counter of the queue is at least that position, so new jobs come after it. A new
--       queue has an outbox entry that registers its name. A job with an alias or a lock in another shard
--       is listed for the janitor (see store/engine/enqueue/references.py).
-- Memory: deny-oom.
-- KEYS: 1 job, 2 due, 3 expiring, 4 pending, 5 finished, 6 dead, 7 queue_counters, 8 queue_available,
--       9 queue_dead, 10 references; for a job with a tenant 11 tenant_queue, 12 tenant_counters,
--       13 tenant_turns; then sets of indexed values.
-- ARGV: 1 id, 2 queue, 3 state, 4 priority, 5 expiry of the claim (ms, 0 without a claim), 6 position ('' for
--       the end of the queue), 7 score in the index of the state: due, created or removal time (ms, '' when
--       available), 8 expires (ms or ''), 9 discard time (ms, '' unless a dead letter), 10 '1' when another
--       shard has an alias or a lock of the job, 11 number of indexed values, 12 retention of the index of the
--       search (ms), 13.. names and values of the fields.
-- Returns: {'ok', effects} | {'exists', shard of the alias or ''} | {'claim_expired'}
--@include keys now preflight read_job change_counters set_deadline append_effect make_available index_value
local key, counters, available, queue_dead, references = KEYS[1], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local id, queue, state, priority, claim_expires_at = unpack(ARGV, 1, 5)
local position, score, expires_at, died_at, is_referenced = unpack(ARGV, 6, 10)
if redis.call('EXISTS', key) == 1 then
    return {'exists', redis.call('HGET', key, F.alias) or ''}
end
if claim_expires_at ~= '0' and now >= tonumber(claim_expires_at) then return {'claim_expired'} end
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', counters, 'created', now) == 1 then append_effect('queue', queue) end
if is_referenced == '1' then redis.call('ZADD', references, now, id) end
local job = {[F.queue] = queue}
for i = 13, #ARGV, 2 do
    local name, value = ARGV[i], ARGV[i + 1]
    redis.call('HSET', key, name, value)
    if name == F.tenant or name == F.created or name == F.due then job[name] = value end
end
for i = #KEYS - ARGV[11] + 1, #KEYS do
    index_value(KEYS[i], id, job[F.created], tonumber(job[F.due]), ARGV[12])
end
if expires_at ~= '' then set_deadline(EXPIRING, id, tonumber(expires_at)) end
if state == 'available' then
    local last = tonumber(redis.call('HGET', counters, 'seq') or 0)
    local number = tonumber(position) or last + 1
    if number > last then redis.call('HSET', counters, 'seq', string.format('%.0f', number)) end
    redis.call('ZADD', available, band_of(priority) + number, id)
    if job[F.tenant] then
        index_for_tenant(id, job, band_of(priority) + number)
        count_for_tenant(job, 'available', 1)
        flush_counters()
    end
    if redis.call('ZCARD', available) == 1 then redis.call('SPUBLISH', WAKE_CHANNEL, queue) end
    return {'ok', effects}
end
count_job(job, state, 1)
flush_counters()
if state == 'pending' then
    redis.call('ZADD', PENDING, score, id)
elseif state == 'scheduled' or state == 'retryable' then
    set_deadline(DUE, id, tonumber(score))
else
    redis.call('ZADD', FINISHED, score, id)
end
if died_at ~= '' then
    redis.call('ZADD', DEAD, died_at, id)
    redis.call('ZADD', queue_dead, died_at, id)
end
return {'ok', effects}
