-- Transition: running -> completed | failed | cancelled, once.
-- Post: the day of its removal is set. A cancelled workflow owes the cancellation of its jobs.
-- Memory: allow-oom; adds 600 bytes.
-- KEYS: 1 wf:, 2..6 the shard's wfin, ev, out, ob, wfrun.
-- ARGV: 1 events kept, 2 id, 3 state, 4 ms to keep, 5 members of the event's data.
-- Returns: {'ok', state, effects} | {'conflict', state} when it ended otherwise | {'missing'}
--@include keys now read_job append_event set_deadline append_effect
local state, created, kind = unpack(redis.call('HMGET', KEYS[1], 'state', 'created', 'type'))
if not state then return {'missing'} end
if state ~= 'running' then return {'conflict', state} end
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'finished', now)
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[2])
if ARGV[3] == 'cancelled' then
    append_effect('workflow_cancel', ARGV[2])
else
    emit('workflow.' .. ARGV[3], ARGV[2], {[F.type] = kind, [F.queue] = ''}, 'D',
        string.format('%s,"duration_ms":%.0f', ARGV[5], now - created))
end
redis.call('ZREM', KEYS[6], ARGV[2])
return {'ok', ARGV[3], effects}
