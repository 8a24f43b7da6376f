-- Transition: (nothing) -> any state but active, for one job of a backup.
-- Pre:  nothing has the id in the shard; a claim on an alias has not lapsed.
-- Post: the job is as it was when it was saved: in the indexes of its state, at the place it had.
--       The queue's counter of places is no lower than that, so new jobs come after it. The name of a
--       new queue is owed to the registry. A job with an alias or a lock elsewhere is listed for the
--       janitor (see store/enqueue/references.py).
-- Memory: deny-oom.
-- KEYS: 1 job hash, 2..6 the shard's due, exp, pend, fin, dead; 7 c:, 8 q:, 9 d: of its queue; 10 refs.
-- ARGV: 1 id, 2 queue, 3 state, 4 priority, 5 claim lapses at (ms, 0 none), 6 place ('' the next),
--       7 due, created or removal (ms, by state; '' when available), 8 expires (ms or ''),
--       9 died (ms, '' for no dead letter), 10 '1' when it has an alias or a lock elsewhere, then names
--       and values of the hash.
-- Returns: {'ok', effects}
--          {'exists', shard of an alias or ''} | {'lapsed'}
--@include keys now preflight read_job change_counters set_deadline append_effect make_available
local key, id, queue, state, at = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[7]
if redis.call('EXISTS', key) == 1 then
    return {'exists', redis.call('HGET', key, F.alias) or ''}
end
if ARGV[5] ~= '0' and now >= tonumber(ARGV[5]) then return {'lapsed'} end
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
run_preflight()
if redis.call('HSETNX', KEYS[7], 'created', now) == 1 then append_effect('queue', queue) end
if ARGV[10] == '1' then redis.call('ZADD', KEYS[10], now, id) end
for i = 11, #ARGV, 2 do redis.call('HSET', key, ARGV[i], ARGV[i + 1]) end
if ARGV[8] ~= '' then set_deadline(EXPIRING, id, tonumber(ARGV[8])) end
if state == 'available' then
    local place, last = tonumber(ARGV[6]), tonumber(redis.call('HGET', KEYS[7], 'seq') or 0)
    place = place or last + 1
    if place > last then redis.call('HSET', KEYS[7], 'seq', string.format('%.0f', place)) end
    redis.call('ZADD', KEYS[8], band_of(ARGV[4]) + place, id)
    if redis.call('ZCARD', KEYS[8]) == 1 then redis.call('SPUBLISH', WAKE_CHANNEL, queue) end
    return {'ok', effects}
end
count(queue, state, 1)
flush_counters()
if state == 'pending' then
    redis.call('ZADD', PENDING, at, id)
elseif state == 'scheduled' or state == 'retryable' then
    set_deadline(DUE, id, tonumber(at))
else
    redis.call('ZADD', FINISHED, at, id)
end
if ARGV[9] ~= '' then
    redis.call('ZADD', DEAD, ARGV[9], id)
    redis.call('ZADD', KEYS[9], ARGV[9], id)
end
return {'ok', effects}
