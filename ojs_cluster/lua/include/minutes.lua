-- Sums of a queue's last hour: a ring of 60 one-minute slots in one hash, so it never grows.
-- Slot fields: m minute, c completed, f failed attempts, d ms of execution, w ms of waiting.
-- And the sums since the queue began, beside its counters: failed attempts, and of completed jobs
-- the ms they ran and waited (`acked` counts those).
local function tally(job, what)
    local key = minutes_key(job[F.queue])
    local minute = math.floor(now / 60000)
    local slot = minute % 60
    if redis.call('HGET', key, slot .. 'm') ~= tostring(minute) then
        redis.call('HSET', key, slot .. 'm', minute, slot .. 'c', 0, slot .. 'f', 0,
            slot .. 'd', 0, slot .. 'w', 0)
    end
    redis.call('HINCRBY', key, slot .. what, 1)
    if what == 'f' then return count(job[F.queue], 'failed', 1) end
    local ran = now - job[F.started]
    local waited = math.max(0, job[F.started] - (job[F.enqueued] or job[F.created]))
    redis.call('HINCRBY', key, slot .. 'd', ran)
    redis.call('HINCRBY', key, slot .. 'w', waited)
    count(job[F.queue], 'ran', ran)
    count(job[F.queue], 'waited', waited)
end
